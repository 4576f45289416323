"""A session of the Python client `etcd3`, which speaks gRPC.

over_grpc.py HOST PORT [snapshot | auth CERTIFICATES]

Prints what it has checked, and ends with an error at the first surprise.
"""

import sys
import threading
import time

import etcd3

host, port = sys.argv[1], int(sys.argv[2])
mode = sys.argv[3:4]
# gRPC gives no token away without TLS, so that users need certificates too.
certificates = {}
if mode == ["auth"]:
    names = {"ca_cert": "ca.pem", "cert_cert": "client.pem", "cert_key": "client.key"}
    certificates = {what: f"{sys.argv[4]}/{name}" for what, name in names.items()}
client = etcd3.client(host=host, port=port, timeout=10, **certificates)


def done(what):
    print(f"ok {what}", flush=True)


def values():
    client.put("py/a", "1")
    client.put("py/b", "2")
    value, meta = client.get("py/a")
    assert value == b"1" and meta.key == b"py/a" and meta.version == 1, (value, meta)
    assert client.get("py/none") == (None, None)
    rows = [(meta.key, value) for value, meta in client.get_prefix("py/", sort_order="descend")]
    assert rows == [(b"py/b", b"2"), (b"py/a", b"1")], rows
    assert [meta.key for value, meta in client.get_range("py/a", "py/b")] == [b"py/a"]
    assert client.put_if_not_exists("py/a", "9") is False
    assert client.replace("py/a", "1", "3") is True
    assert client.replace("py/a", "1", "4") is False
    assert client.get("py/a")[0] == b"3"
    assert client.delete("py/b") is True
    assert client.delete("py/b") is False
    done("values")


def transactions():
    t = client.transactions
    taken, answers = client.transaction(
        compare=[t.value("py/a") == "3", t.version("py/a") > 1, t.create("py/none") == 0],
        success=[t.put("py/t", "yes"), t.get("py/t"), t.delete("py/a")],
        failure=[t.put("py/t", "no")],
    )
    assert taken is True
    ((value, meta),) = answers[1]
    assert value == b"yes" and meta.version == 1, answers
    taken, _ = client.transaction(
        compare=[t.value("py/t") == "no"], success=[], failure=[t.put("py/t", "else")]
    )
    assert taken is False and client.get("py/t")[0] == b"else"
    done("transactions")


def watches():
    heard = []
    full = threading.Event()

    def hear(response):
        heard.extend(response.events)
        if len(heard) >= 3:
            full.set()

    watch = client.add_watch_prefix_callback("py/w", hear)
    client.put("py/w1", "1")
    client.put("py/w2", "2")
    client.delete("py/w1")
    assert full.wait(10), heard
    kinds = [type(event).__name__ for event in heard]
    assert kinds == ["PutEvent", "PutEvent", "DeleteEvent"], kinds
    client.cancel_watch(watch)
    # From the past.
    start = heard[0].mod_revision
    events, cancel = client.watch("py/w1", start_revision=start)
    assert next(events).value == b"1"
    assert isinstance(next(events), etcd3.events.DeleteEvent)
    cancel()
    # Below what is kept: the client is told where history begins.
    client.compact(start + 2)
    events, cancel = client.watch("py/w1", start_revision=start)
    try:
        next(events)
        raise AssertionError("a compacted start must be refused")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision == start + 2, error.compacted_revision
    done("watches")


def leases():
    lease = client.lease(60)
    client.put("py/l", "x", lease=lease)
    assert lease.granted_ttl == 60 and 50 < lease.remaining_ttl <= 60
    assert lease.keys == [b"py/l"], lease.keys
    (renewed,) = lease.refresh()
    assert renewed.TTL == 60
    lease.revoke()
    assert client.get("py/l")[0] is None
    short = client.lease(1)
    client.put("py/short", "x", lease=short)
    deadline = time.time() + 15
    while client.get("py/short")[0] is not None:
        assert time.time() < deadline, "a lease of one second does not end"
        time.sleep(0.1)
    done("leases")


def locks():
    order = []
    with client.lock("py-lock", ttl=20) as held:
        assert held.is_acquired()
        other = client.lock("py-lock", ttl=20)
        assert other.acquire(timeout=1) is False
        order.append("first")
    assert other.acquire(timeout=10) is True
    order.append("second")
    assert other.release() is True
    assert order == ["first", "second"]
    done("locks")


def upkeep():
    status = client.status()
    assert [int(part) for part in status.version.split(".")][0] == 3, status.version
    assert status.leader is not None and status.db_size > 0
    assert len(list(client.members)) == 1
    assert list(client.list_alarms()) == []
    client.defragment()
    client.hash()
    done("upkeep")


def snapshot():
    with open("/dev/null", "wb") as file:
        client.snapshot(file)
    done("snapshot")


def refusals():
    try:
        client.put("", "x")
        raise AssertionError("an empty key must be refused")
    except Exception as error:  # The client has no class of its own for it.
        assert "key is not provided" in str(error), error
    done("refusals")


def guarded():
    """With users: root has been made and auth is on."""
    root = etcd3.client(
        host=host, port=port, timeout=10, user="root", password="rootpw", **certificates
    )
    root.put("py/guarded", "1")
    assert root.get("py/guarded")[0] == b"1"
    events, cancel = root.watch("py/guarded")
    root.put("py/guarded", "2")
    assert next(events).value == b"2"
    cancel()
    for broken, reason in [
        (lambda: client.get("py/guarded"), "user name is empty"),
        (
            lambda: etcd3.client(
                host=host, port=port, timeout=10, user="root", password="wrong", **certificates
            ),
            "invalid user ID or password",
        ),
    ]:
        try:
            broken()
            raise AssertionError(f"refused: {reason}")
        except Exception as error:
            assert reason in str(error), error
    done("guarded")


if mode == ["snapshot"]:
    snapshot()
elif mode == ["auth"]:
    guarded()
else:
    for part in [values, transactions, watches, leases, locks, refusals, upkeep]:
        part()
