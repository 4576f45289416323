//! The rule, frame by frame.

use super::*;

const MIN_TIME: Duration = Duration::from_secs(5);
const END: u8 = 1;
const ACK: u8 = 1;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, stream.to_be_bytes().as_slice(), payload].concat()
}

pub(super) fn ping() -> Vec<u8> {
    frame(6, 0, 0, &[9; 8])
}

fn headers(flags: u8, stream: u32) -> Vec<u8> {
    frame(1, flags, stream, b"whatever")
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

/// A connection and a clock.
struct Session {
    police: Police,
    now: Instant,
}

impl Session {
    fn new() -> Self {
        let mut session = Self { police: Police::new(MIN_TIME), now: Instant::now() };
        assert!(session.hears(PREFACE));
        session
    }

    /// Whether the client may stay after this.
    fn hears(&mut self, bytes: &[u8]) -> bool {
        self.police.received(bytes, || self.now) == Verdict::Fine
    }

    /// How many pings, so far apart, until the client is sent away; at most ten.
    fn pings_until_sent_away(&mut self, apart: Duration) -> Option<usize> {
        (1..=10).find(|_| {
            self.now += apart;
            !self.hears(&ping())
        })
    }
}

/// Goal: with a call open a ping every five seconds is fine, and the fourth that is quicker is not:
/// the first has none before it, and two strikes are overlooked.
#[tokio::test]
async fn with_a_call_open_the_flag_decides() {
    let mut session = Session::new();
    assert!(session.hears(&headers(0, 1)));
    assert_eq!(session.pings_until_sent_away(MIN_TIME), None);
    assert_eq!(session.pings_until_sent_away(MIN_TIME / 2), Some(3));
    let mut fresh = Session::new();
    assert!(fresh.hears(&headers(0, 1)));
    assert_eq!(fresh.pings_until_sent_away(MIN_TIME / 2), Some(4));
}

/// Goal: without a call, two hours are the measure; a call that has ended, from whichever side, is
/// none.
#[tokio::test]
async fn without_a_call_hardly_any_ping_is_right() {
    let hour = Duration::from_secs(3600);
    assert_eq!(Session::new().pings_until_sent_away(hour), Some(4));
    assert_eq!(Session::new().pings_until_sent_away(2 * hour), None);
    let ends: [fn(&mut Session); 4] = [
        |session| session.police.sent(&headers(END, 1)),
        |session| session.police.sent(&frame(0, END, 1, b"")),
        |session| session.police.sent(&reset(1)),
        |session| assert!(session.hears(&reset(1))),
    ];
    for end in ends {
        let mut session = Session::new();
        assert!(session.hears(&headers(0, 1)));
        end(&mut session);
        // The first ping after an answer is free.
        let free = usize::from(session.police.answered);
        assert_eq!(session.pings_until_sent_away(hour), Some(4.max(3 + free)));
    }
    // The client's own end of a call is not the call's, nor are its trailers a new one.
    let mut session = Session::new();
    assert!(session.hears(&headers(0, 1)) && session.hears(&headers(END, 1)));
    assert_eq!(session.pings_until_sent_away(MIN_TIME), None);
    session.police.sent(&headers(END, 1));
    assert!(session.hears(&headers(END, 1)));
    assert!(session.police.open.is_empty(), "an old number opens nothing");
}

/// Goal: who is answered between its pings may ping as it likes.
#[tokio::test]
async fn an_answer_forgives() {
    let mut session = Session::new();
    assert!(session.hears(&headers(0, 1)));
    for _ in 0..100 {
        session.police.sent(&frame(0, 0, 1, b"piece"));
        assert!(session.hears(&ping()));
        assert!(session.hears(&ping()));
        assert!(session.hears(&ping()));
    }
    // What is sent for no call forgives nothing.
    for kind in [4, 6, 8] {
        session.police.sent(&frame(kind, 0, 0, b"12345678"));
    }
    assert!(!session.hears(&ping()));
}

/// Goal: an answer to our own ping is no ping.
#[tokio::test]
async fn answers_are_not_counted() {
    let mut session = Session::new();
    for _ in 0..100 {
        assert!(session.hears(&frame(6, ACK, 0, &[9; 8])));
    }
}

/// Goal: it makes no difference in which pieces bytes come, in either direction.
#[tokio::test]
async fn bytes_come_in_any_pieces() {
    let said =
        [PREFACE.as_slice(), &headers(0, 1), &frame(0, 0, 1, &[6; 40]), &ping().repeat(4)].concat();
    for size in 1..said.len() {
        let mut police = Police::new(MIN_TIME);
        let now = Instant::now();
        let answer = [headers(0, 1), frame(0, END, 1, &[6; 31])].concat();
        for piece in answer.chunks(size) {
            police.sent(piece);
        }
        assert_eq!((police.unfinished(), police.answered), (0, true));
        police.answered = false;
        let mut pieces = said.chunks(size);
        let verdict = pieces.find_map(|piece| match police.received(piece, || now) {
            Verdict::Fine => None,
            Verdict::TooManyPings(farewell) => Some(farewell),
        });
        let farewell = verdict.unwrap_or_else(|| panic!("in pieces of {size}"));
        assert_eq!(farewell, *b"\0\0\x16\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x0btoo_many_pings");
        assert!(pieces.map(<[u8]>::len).sum::<usize>() <= 8, "known by the head of the last ping");
    }
}

/// Goal: it is known at every byte how much of a frame is still to come.
#[tokio::test]
async fn the_end_of_a_frame_is_known() {
    let frame = frame(0, 0, 1, &[0; 20]);
    let mut police = Police::new(MIN_TIME);
    let mut told = Vec::new();
    for byte in &frame {
        told.push(police.unfinished());
        police.sent(&[*byte]);
    }
    let head = [0, 8, 7, 6, 5, 4, 3, 2, 1];
    assert_eq!(told[..9], head);
    assert!(told[9..].iter().copied().eq((1..=20).rev()));
    assert_eq!(police.unfinished(), 0);
}

/// Goal: what is not HTTP/2 is left alone, whatever bytes it has.
#[tokio::test]
async fn other_protocols_are_left_alone() {
    for greeting in [b"PUT / HTTP/1.1\r\n".as_slice(), b"PRI * HTTP/2.1", b"\0\0\x08\x06"] {
        for size in [1, 3, 100] {
            let mut police = Police::new(MIN_TIME);
            let said = [greeting, &ping().repeat(10)].concat();
            for piece in said.chunks(size) {
                assert_eq!(police.received(piece, Instant::now), Verdict::Fine);
            }
            police.sent(b"HTTP/1.1 200 OK\r\n");
            assert!(police.open.is_empty() && !police.answered);
        }
    }
}
