// A session of the Node client `etcd3`.
//
// session.js ENDPOINT [auth]
//
// Prints what it has checked, and ends with an error at the first surprise.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The packages lie in a folder of the target directory, not beside this file.
const require = createRequire(process.env.SESSIONS_MODULES + "/");
const { Etcd3 } = require("etcd3");

const [endpoint, mode] = process.argv.slice(2);
const client = new Etcd3({ hosts: `http://${endpoint}` });

async function values() {
  await client.put("js/a").value("1");
  await client.put("js/b").value("2");
  assert.equal(await client.get("js/a").string(), "1");
  assert.equal(await client.get("js/none").string(), null);
  assert.deepEqual(await client.getAll().prefix("js/").strings(), { "js/a": "1", "js/b": "2" });
  assert.deepEqual(await client.getAll().prefix("js/").sort("Key", "Descend").limit(1).keys(), ["js/b"]);
  assert.equal(await client.getAll().prefix("js/").count(), 2);
  const gone = await client.delete().key("js/b");
  assert.equal(gone.deleted, "1");
}

async function transactions() {
  const taken = await client
    .if("js/a", "Value", "==", "1")
    .and("js/none", "Create", "==", 0)
    .then(client.put("js/t").value("yes"), client.get("js/t"))
    .else(client.put("js/t").value("no"))
    .commit();
  assert.equal(taken.succeeded, true);
  assert.equal(taken.responses[1].response_range.kvs[0].value.toString(), "yes");
  const stm = await client.stm().transact(async (tx) => {
    const seen = await tx.get("js/t").string();
    await tx.put("js/t").value(seen + "!");
    return seen;
  });
  assert.equal(stm, "yes");
  assert.equal(await client.get("js/t").string(), "yes!");
}

async function watches() {
  const watcher = await client.watch().prefix("js/w").withPreviousKV().create();
  const heard = [];
  const full = new Promise((resolve) => {
    watcher.on("data", (response) => {
      heard.push(...response.events);
      if (heard.length >= 3) resolve();
    });
  });
  await client.put("js/w1").value("1");
  await client.put("js/w1").value("2");
  await client.delete().key("js/w1");
  await full;
  assert.deepEqual(heard.map((event) => event.type), ["Put", "Put", "Delete"]);
  assert.equal(heard[2].prev_kv.value.toString(), "2");
  await watcher.cancel();

  const start = heard[0].kv.mod_revision;
  const late = await client.watch().key("js/w1").startRevision(start).create();
  const first = await new Promise((resolve) => late.once("put", resolve));
  assert.equal(first.value.toString(), "1");
  await late.cancel();
}

async function leases() {
  const lease = client.lease(20);
  const id = await lease.grant();
  await lease.put("js/l").value("x");
  assert.equal((await client.get("js/l").exec()).kvs[0].lease, id);
  await lease.keepaliveOnce();
  await lease.revoke();
  assert.equal(await client.get("js/l").string(), null);
}

async function locks() {
  const first = client.lock("js-lock").ttl(20);
  await first.acquire();
  await assert.rejects(client.lock("js-lock").ttl(20).acquire(), /lock/i);
  await first.release();
  const second = client.lock("js-lock").ttl(20);
  await second.acquire();
  await second.release();
}

async function elections() {
  const election = client.election("js-election", 20);
  const campaign = election.campaign("one");
  await new Promise((resolve, reject) => campaign.once("elected", resolve).once("error", reject));
  assert.equal(await election.leader(), "one");
  await campaign.proclaim("two");
  assert.equal(await election.leader(), "two");
  await campaign.resign();
}

async function upkeep() {
  const status = await client.maintenance.status();
  assert.equal(status.version.split(".")[0], "3");
  const { members } = await client.cluster.memberList({});
  assert.equal(members.length, 1);
}

async function refusals() {
  await assert.rejects(client.put("").value("x").exec(), /key is not provided/);
}

// With users: root has been made and auth is on.
async function guarded() {
  const auth = { username: "root", password: "rootpw" };
  const root = new Etcd3({ hosts: `http://${endpoint}`, auth });
  await root.put("js/guarded").value("1");
  assert.equal(await root.get("js/guarded").string(), "1");
  root.close();
  await assert.rejects(client.get("js/guarded").exec(), /user name is empty/);
}

const parts = mode === "auth"
  ? [guarded]
  : [values, transactions, watches, leases, locks, elections, refusals, upkeep];
for (const part of parts) {
  await part();
  console.log(`ok ${part.name}`);
}
client.close();
