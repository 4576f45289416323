//! Runs the golden scripts: each file in `scripts/` shows one behaviour.
//!
//! Regenerate with `UPDATE_GOLDENFILES=1` and read the difference. The commands:
//!
//! ```text
//! put KEY VALUE [lease=ID] [prev] [ignore_value] [ignore_lease]
//! del KEY [END] [prev]                    END as etcd has it; "end" stands for the open end
//! get KEY [END] [rev=N] [limit=N] [order=asc|desc] [by=version|create|mod|value]
//!     [min_mod=N] [max_mod=N] [min_create=N] [max_create=N] [keys_only] [count_only]
//! txn [if="mod KEY = 2; …"] [then="put …; get …; …"] [else="…"]
//! compact REV    grant ID TTL    revoke ID    lease ID    keepalive ID SECONDS
//! raise KIND     clear KIND      quota BYTES
//! history FROM   hash [REV]      sizes
//! checkpoint     reopen          (the state is the same before and after)
//! ```

use std::{collections::BTreeMap, error::Error, fmt::Write as _, path::Path, str::FromStr};

use bytes::Bytes;
use goldenscript::{Argument, Context, Runner};
use store::{
    command::{
        Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRange, Event,
        EventKind, KeyRange, KeyValue, LeaseId, MemberId, Op, OpAnswer, Put, RangeAnswer,
        RangeQuery, Response, Revision, SortOrder, SortTarget, Txn, TxnAnswer,
    },
    engine::{Budget, Engine},
};

use crate::{
    disk::{Disk, healthy},
    world::open,
};

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/scripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        // All in memory, and with every entry written out at once: nobody can tell.
        for memtable_bytes in [1 << 30, 1] {
            let disk = healthy();
            let engine = Some(open(&disk, memtable_bytes));
            let mut script = Script { disk, memtable_bytes, engine, index: 0 };
            goldenscript::run(&mut script, &path).unwrap();
        }
    }
}

type Answer<T> = Result<T, Box<dyn Error>>;

struct Script {
    disk: Disk,
    memtable_bytes: usize,
    engine: Option<Engine>,
    index: u64,
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Answer<String> {
        let words = Words::new(command.args.iter().map(|argument| match argument {
            Argument::KeyValue(name, value) => (name.clone(), Some(value.clone())),
            Argument::Positional(word) => (word.clone(), None),
            other => panic!("{other:?}"),
        }));
        self.take(&command.name, words)
    }
}

impl Script {
    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("between commands there is an engine")
    }

    fn take(&mut self, name: &str, mut words: Words) -> Answer<String> {
        let command = match name {
            "put" => Command::Put(words.put()?),
            "del" => Command::Delete(words.delete()?),
            "txn" => Command::Txn(words.txn()?),
            "compact" => Command::Compact(Revision(words.number()?)),
            "grant" => Command::LeaseGrant { id: words.lease()?, ttl: words.number()? },
            "revoke" => Command::LeaseRevoke(words.lease()?),
            "keepalive" => Command::LeaseCheckpoint(vec![(words.lease()?, words.number()?)]),
            "raise" => Command::RaiseAlarm(words.alarm()?),
            "clear" => Command::ClearAlarm(words.alarm()?),
            "quota" => Command::Quota { bytes: words.number()?, member: MemberId(1) },
            _ => return self.ask(name, words),
        };
        words.finish()?;
        self.index += 1;
        let index = self.index;
        let applied = self.engine().apply(index, None, &[command])?;
        let outcome = &applied.outcomes[0];
        let mut out = format!("rev={}", outcome.revision);
        match &outcome.result {
            Ok(response) => write_response(&mut out, response),
            Err(refusal) => write!(out, " refused: {refusal}")?,
        }
        out.push('\n');
        for event in applied.events.iter().flat_map(|revised| &revised.events) {
            writeln!(out, "  {}", show_event(event))?;
        }
        Ok(out)
    }

    fn ask(&mut self, name: &str, mut words: Words) -> Answer<String> {
        let reader = self.engine().reader();
        let view = reader.view();
        let mut out = String::new();
        match name {
            "get" => match view.range(&words.query()?) {
                Ok(answer) => write_range(&mut out, &answer),
                Err(error) => writeln!(out, "refused: {error}")?,
            },
            "history" => {
                let budget = Budget { revisions: 1000, bytes: 1 << 20 };
                match view.history(Revision(words.number()?), budget) {
                    Ok(history) => {
                        for revised in history.revised {
                            writeln!(out, "rev={}", revised.revision)?;
                            for event in &revised.events {
                                let prev = event.prev.as_ref().map(show);
                                let prev = prev.map_or(String::new(), |kv| format!(" was {kv}"));
                                writeln!(out, "  {}{prev}", show_event(event))?;
                            }
                        }
                    }
                    Err(error) => writeln!(out, "refused: {error}")?,
                }
            }
            "hash" => match view.hash_kv(Revision(words.number().unwrap_or(0))) {
                Ok(digest) => writeln!(
                    out,
                    "{:08x} rev={} compacted={}",
                    digest.hash, digest.revision, digest.compacted
                )?,
                Err(error) => writeln!(out, "refused: {error}")?,
            },
            "sizes" => {
                let sizes = view.sizes();
                writeln!(out, "retained={} live={}", sizes.retained, sizes.live)?;
            }
            "lease" => match reader.lease(words.lease()?) {
                Some(lease) => writeln!(
                    out,
                    "ttl={} remaining={} keys={:?}",
                    lease.ttl,
                    lease.remaining,
                    lease.keys.iter().map(|key| text(key)).collect::<Vec<_>>()
                )?,
                None => writeln!(out, "none")?,
            },
            "alarms" => writeln!(out, "{:?}", view.alarms())?,
            "checkpoint" => self.engine().checkpoint()?,
            "reopen" => {
                self.engine.take().expect("between commands there is an engine").close()?;
                self.engine = Some(open(&self.disk, self.memtable_bytes));
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        words.finish()?;
        Ok(out)
    }
}

fn write_response(out: &mut String, response: &Response) {
    match response {
        Response::Put(answer) => {
            if let Some(prev) = &answer.prev {
                write!(out, " prev {}", show(prev)).unwrap();
            }
        }
        Response::Delete(answer) => {
            write!(out, " deleted={}", answer.deleted).unwrap();
            for prev in &answer.prevs {
                write!(out, " prev {}", show(prev)).unwrap();
            }
        }
        Response::Txn(answer) => write_txn(out, answer),
        Response::LeaseGrant { id, ttl } => write!(out, " lease={} ttl={ttl}", id.0).unwrap(),
        Response::Alarms(alarms) => write!(out, " {alarms:?}").unwrap(),
        Response::Compact
        | Response::LeaseRevoke
        | Response::LeaseCheckpoint
        | Response::MemberAttributes
        | Response::Quota
        | Response::Auth => {}
    }
}

fn write_txn(out: &mut String, answer: &TxnAnswer) {
    write!(out, " succeeded={}", answer.succeeded).unwrap();
    for answer in &answer.answers {
        out.push_str("; ");
        match answer {
            OpAnswer::Range(range) => {
                let rows: Vec<_> = range.kvs.iter().map(show).collect();
                write!(out, "at {} [{}] count={}", range.revision, rows.join(", "), range.count)
                    .unwrap();
            }
            OpAnswer::Put(put) => write!(out, "put at {}", put.revision).unwrap(),
            OpAnswer::Delete(delete) => {
                write!(out, "deleted {} at {}", delete.deleted, delete.revision).unwrap();
            }
            OpAnswer::Txn(txn) => {
                out.push_str("txn");
                write_txn(out, txn);
            }
        }
    }
}

fn write_range(out: &mut String, answer: &RangeAnswer) {
    for kv in &answer.kvs {
        writeln!(out, "{}", show(kv)).unwrap();
    }
    let more = if answer.more { " more" } else { "" };
    writeln!(out, "rev={} count={}{more}", answer.revision, answer.count).unwrap();
}

fn show_event(event: &Event) -> String {
    match event.kind {
        EventKind::Put => format!("put {}", show(&event.kv)),
        EventKind::Delete => format!("deleted {} mod={}", text(&event.kv.key), event.kv.modified),
    }
}

fn show(kv: &KeyValue) -> String {
    let KeyValue { key, value, create, modified, version, lease } = kv;
    let lease = if lease.0 == 0 { String::new() } else { format!(" lease={}", lease.0) };
    format!("{}={} create={create} mod={modified} ver={version}{lease}", text(key), text(value))
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The words of a command: those with a name, and those in order.
struct Words {
    named: BTreeMap<String, String>,
    plain: Vec<String>,
}

impl Words {
    fn new(words: impl Iterator<Item = (String, Option<String>)>) -> Self {
        let mut split = Self { named: BTreeMap::new(), plain: Vec::new() };
        for (word, value) in words {
            match value {
                Some(value) => drop(split.named.insert(word, value)),
                None => split.plain.push(word),
            }
        }
        split.plain.reverse();
        split
    }

    /// The words of one step of a transaction, which come in one string.
    fn of(step: &str) -> Self {
        Self::new(step.split_whitespace().map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => (name.into(), Some(value.into())),
            _ => (word.into(), None),
        }))
    }

    fn finish(self) -> Answer<()> {
        match (self.plain.last(), self.named.keys().next()) {
            (None, None) => Ok(()),
            (Some(word), _) | (None, Some(word)) => Err(format!("what is {word}?").into()),
        }
    }

    fn word(&mut self) -> Answer<String> {
        self.plain.pop().ok_or_else(|| "a word is missing".into())
    }

    fn flag(&mut self, flag: &str) -> bool {
        let before = self.plain.len();
        self.plain.retain(|word| word != flag);
        self.plain.len() < before
    }

    fn number<T: FromStr<Err: Error + 'static>>(&mut self) -> Answer<T> {
        Ok(self.word()?.parse()?)
    }

    fn named<T: FromStr<Err: Error + 'static> + Default>(&mut self, name: &str) -> Answer<T> {
        Ok(self.named.remove(name).map(|value| value.parse()).transpose()?.unwrap_or_default())
    }

    fn lease(&mut self) -> Answer<LeaseId> {
        self.number().map(LeaseId)
    }

    fn alarm(&mut self) -> Answer<Alarm> {
        let kind = match self.word()?.as_str() {
            "nospace" => AlarmKind::NoSpace,
            "corrupt" => AlarmKind::Corrupt,
            other => return Err(format!("no alarm {other}").into()),
        };
        Ok(Alarm { member: MemberId(1), kind })
    }

    fn range(&mut self) -> Answer<KeyRange> {
        let end = match self.plain.len() {
            1 => None,
            _ => Some(self.plain.remove(0)),
        };
        let end = match end.as_deref() {
            None => Bytes::new(),
            Some("end") => Bytes::from_static(b"\0"),
            Some(end) => Bytes::copy_from_slice(end.as_bytes()),
        };
        Ok(KeyRange::new(Bytes::from(self.word()?), end))
    }

    fn put(&mut self) -> Answer<Put> {
        let (prev_kv, ignore_value) = (self.flag("prev"), self.flag("ignore_value"));
        let ignore_lease = self.flag("ignore_lease");
        let lease = LeaseId(self.named("lease")?);
        let key = Bytes::from(self.word()?);
        let value = self.plain.pop().map(Bytes::from).unwrap_or_default();
        Ok(Put { key, value, lease, prev_kv, ignore_value, ignore_lease })
    }

    fn delete(&mut self) -> Answer<DeleteRange> {
        let prev_kv = self.flag("prev");
        Ok(DeleteRange { range: self.range()?, prev_kv })
    }

    fn query(&mut self) -> Answer<RangeQuery> {
        let (keys_only, count_only) = (self.flag("keys_only"), self.flag("count_only"));
        let mut query = RangeQuery::new(self.range()?);
        (query.keys_only, query.count_only) = (keys_only, count_only);
        query.revision = Revision(self.named("rev")?);
        query.limit = self.named("limit")?;
        query.order = match self.named::<String>("order")?.as_str() {
            "" => SortOrder::None,
            "asc" => SortOrder::Ascend,
            "desc" => SortOrder::Descend,
            other => return Err(format!("no order {other}").into()),
        };
        query.target = match self.named::<String>("by")?.as_str() {
            "" => SortTarget::Key,
            "version" => SortTarget::Version,
            "create" => SortTarget::Create,
            "mod" => SortTarget::Modified,
            "value" => SortTarget::Value,
            other => return Err(format!("no sort by {other}").into()),
        };
        query.min_modified = Revision(self.named("min_mod")?);
        query.max_modified = Revision(self.named("max_mod")?);
        query.min_create = Revision(self.named("min_create")?);
        query.max_create = Revision(self.named("max_create")?);
        Ok(query)
    }

    fn txn(&mut self) -> Answer<Txn> {
        let mut steps = |name: &str| -> Answer<Vec<String>> {
            let steps: String = self.named(name)?;
            Ok(steps.split(';').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect())
        };
        let (compares, success, failure) = (steps("if")?, steps("then")?, steps("else")?);
        Ok(Txn {
            compares: compares.iter().map(|text| compare(text)).collect::<Answer<_>>()?,
            success: success.iter().map(|text| step(text)).collect::<Answer<_>>()?,
            failure: failure.iter().map(|text| step(text)).collect::<Answer<_>>()?,
        })
    }
}

fn step(step: &str) -> Answer<Op> {
    let (name, rest) = step.split_once(' ').ok_or("a step has a name and words")?;
    let mut words = Words::of(rest);
    let op = match name {
        "put" => Op::Put(words.put()?),
        "del" => Op::Delete(words.delete()?),
        "get" => Op::Range(words.query()?),
        other => return Err(format!("no step {other}").into()),
    };
    words.finish()?;
    Ok(op)
}

/// `mod KEY = 2`, or with an end: `mod KEY END = 2`.
fn compare(text: &str) -> Answer<Compare> {
    let words: Vec<_> = text.split_whitespace().collect();
    let (target, key, end, sign, given) = match words[..] {
        [target, key, sign, given] => (target, key, "", sign, given),
        [target, key, end, sign, given] => (target, key, end, sign, given),
        _ => return Err(format!("what is {text}?").into()),
    };
    let end = if end == "end" { "\0" } else { end };
    let range = KeyRange::new(
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::copy_from_slice(end.as_bytes()),
    );
    let target = match target {
        "ver" => CompareTarget::Version(given.parse()?),
        "create" => CompareTarget::Create(Revision(given.parse()?)),
        "mod" => CompareTarget::Modified(Revision(given.parse()?)),
        "lease" => CompareTarget::Lease(LeaseId(given.parse()?)),
        "value" => CompareTarget::Value(Bytes::copy_from_slice(given.as_bytes())),
        other => return Err(format!("no target {other}").into()),
    };
    let result = match sign {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => return Err(format!("no comparison {other}").into()),
    };
    Ok(Compare { range, target, result })
}
