"""A session of the Python client `etcd3gw`, which speaks JSON over HTTP.

over_gateway.py HOST PORT [auth CERTIFICATES]

Prints what it has checked, and ends with an error at the first surprise.
"""

import sys
import threading
import time

import etcd3gw
from etcd3gw import exceptions
from etcd3gw.utils import _encode

host, port = sys.argv[1], int(sys.argv[2])
mode = sys.argv[3:4]


def connect():
    secure = {}
    if mode == ["auth"]:
        names = {"ca_cert": "ca.pem", "cert_cert": "client.pem", "cert_key": "client.key"}
        secure = {what: f"{sys.argv[4]}/{name}" for what, name in names.items()}
        secure["protocol"] = "https"
    return etcd3gw.client(host=host, port=port, timeout=10, api_path="/v3/", **secure)


client = connect()


def done(what):
    print(f"ok {what}", flush=True)


def values():
    assert client.put("gw/a", "1") is True
    assert client.put("gw/b", "2") is True
    assert client.get("gw/a") == [b"1"]
    assert client.get("gw/none") == []
    ((value, meta),) = client.get("gw/a", metadata=True)
    assert meta["version"] == "1" and meta["key"] == b"gw/a", meta
    rows = [value for value, meta in client.get_prefix("gw/", sort_order="descend", sort_target="key")]
    assert rows == [b"2", b"1"], rows
    assert client.create("gw/a", "x") is False
    assert client.replace("gw/a", "1", "3") is True
    assert client.delete("gw/b") is True
    assert client.delete("gw/b") is False
    done("values")


def transactions():
    answer = client.transaction(
        {
            "compare": [
                {"key": _encode("gw/a"), "result": "EQUAL", "target": "VALUE", "value": _encode("3")}
            ],
            "success": [
                {"request_put": {"key": _encode("gw/t"), "value": _encode("yes")}},
                {"request_range": {"key": _encode("gw/t")}},
            ],
            "failure": [],
        }
    )
    assert answer["succeeded"] is True, answer
    rows = answer["responses"][1]["response_range"]
    assert rows["count"] == "1" and rows["kvs"][0]["value"] == _encode("yes"), rows
    done("transactions")


def watches():
    events, cancel = client.watch_prefix("gw/w")
    put = threading.Timer(0.5, lambda: (client.put("gw/w1", "1"), client.delete("gw/w1")))
    put.start()
    event = next(events)
    assert event["kv"]["value"] == b"1", event
    event = next(events)
    assert event["type"] == "DELETE", event
    put.join()
    cancel()
    done("watches")


def leases():
    lease = client.lease(ttl=60)
    assert client.put("gw/l", "x", lease=lease)
    assert 50 < lease.ttl() <= 60 and lease.keys() == [b"gw/l"], lease.keys()
    assert lease.refresh() == 60
    lease.revoke()
    assert client.get("gw/l") == []
    done("leases")


def locks():
    with client.lock(id="gw-lock", ttl=20) as lock:
        assert lock.is_acquired()
        other = client.lock(id="gw-lock", ttl=20)
        assert other.acquire() is False
    assert other.acquire() is True and other.release() is True
    done("locks")


def upkeep():
    status = client.status()
    assert status["version"].split(".")[0] == "3" and int(status["dbSize"]) > 0, status
    assert len(client.members()) == 1
    done("upkeep")


def refusals():
    try:
        client.put("", "x")
        raise AssertionError("an empty key must be refused")
    except exceptions.Etcd3Exception as error:
        assert "key is not provided" in (error.detail_text or str(error)), error.detail_text
    done("refusals")


def guarded():
    """With users: root has been made and auth is on. The client cannot log in by itself."""
    root = connect()
    asked = {"name": "root", "password": "rootpw"}
    token = root.post(root.get_url("/auth/authenticate"), json=asked)["token"]
    root.session.headers["Authorization"] = token
    assert root.put("gw/guarded", "1") is True
    assert root.get("gw/guarded") == [b"1"]
    try:
        client.get("gw/guarded")
        raise AssertionError("who has not logged in must be refused")
    except exceptions.Etcd3Exception as error:
        assert "user name is empty" in (error.detail_text or str(error)), error.detail_text
    done("guarded")


if mode == ["auth"]:
    guarded()
    sys.exit()
for part in [values, transactions, watches, leases, locks, refusals, upkeep]:
    part()
    time.sleep(0)
