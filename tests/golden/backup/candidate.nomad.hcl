job "pds-candidate" {
  datacenters = ["dc1"]
  region      = "global"
  type        = "batch"
  priority    = 30

  parameterized {
    payload       = "forbidden"
    meta_required = ["image"]
  }

  group "pds-candidate" {
    count = 1

    restart {
      attempts = 0
      interval = "10m"
      delay    = "15s"
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "fetch" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        image           = "restic/restic:0.19.1"
        entrypoint      = ["/bin/sh", "-c", "sh /local/fetch.sh || true"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      env {
        PDS_HOSTNAME       = "noted.at"
        RESTIC_REPOSITORY  = "s3:https://ams3.digitaloceanspaces.com/dev-noted-at-backup/noted.at"
        AWS_DEFAULT_REGION = "ams3"
      }

      template {
        destination = "local/fetch.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns the way of a snapshot from the bucket to TARGET/fetched, and of the list of who left to TARGET/list; without a
        # TARGET to the allocation's own folder. Runs in restic's image before the task that uses them. What was asked for is
        # Nomad's meta of the dispatched job: `snapshot` is a snapshot's id in restic, `from` "volume" where the snapshot is on
        # the volume already, `show` anything to list them.
        set -eu
        umask 077

        [ "$${NOMAD_META_forget:-}" = "" ] || exit 0 # the next task's alone
        # shellcheck source=/dev/null
        . "$(dirname "$0")/open.sh"

        TARGET=$${TARGET:-$NOMAD_ALLOC_DIR/data}
        fetched=$TARGET/fetched
        wanted=$${NOMAD_META_snapshot:-latest}
        if [ "$REPOSITORY" = absent ]; then
            [ "$${NOMAD_META_from:-}" != volume ] || exit 0
            fail "$RESTIC_REPOSITORY holds no backups"
        fi

        # Nothing here takes a lock: a restore is kept from nothing by one that was left behind, a key that may only read does,
        # and a backup that thins out meanwhile goes on. What that one takes away below this is there under another name at the
        # second attempt.
        if [ "$${NOMAD_META_show:-}" != "" ]; then
            restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --compact
            exit 0
        fi

        mkdir -p "$TARGET"
        began=$(date +%s)

        # The newest list, whatever the snapshot: what it says of older ones is the point of it.
        rm -rf "$TARGET/list"
        case $(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag departures --json) in
            *short_id*) restic restore latest --no-lock --quiet --host "$PDS_HOSTNAME" --tag departures --target "$TARGET/list" ;;
        esac
        [ "$${NOMAD_META_from:-}" != volume ] || exit 0

        if ! said=$(restic snapshots --no-lock --host "$PDS_HOSTNAME" --tag pds --json "$wanted" 2>&1); then
            fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY: $said"
        fi
        case $said in
            *short_id*) ;;
            *) fail "there is no snapshot $wanted of $PDS_HOSTNAME in $RESTIC_REPOSITORY" ;;
        esac

        # Room for it beside what is there, before a byte of it is written. What an earlier run fetched makes room first.
        rm -rf "$fetched" "$fetched.part"
        size=$(restic stats --no-lock --json --mode restore-size --host "$PDS_HOSTNAME" --tag pds "$wanted")
        size=$(($(echo "$size" | sed 's/.*"total_size":\([0-9]*\).*/\1/') / 1048576))
        free=$(($(df -Pk "$TARGET" | tail -n 1 | awk '{ print $4 }') / 1024))
        [ $((free - size)) -ge "$${PDS_SNAPSHOT_RESERVE_MIB:-256}" ] ||
            fail "the snapshot takes $size MiB and $free MiB are free. Make the volume larger: 'volume: {size_gib: …}'."

        get() {
            rm -rf "$fetched.part"
            restic restore "$wanted" --no-lock --host "$PDS_HOSTNAME" --tag pds --target "$fetched.part"
        }
        get || get
        mv "$fetched.part" "$fetched"
        echo "{\"seconds\": $(($(date +%s) - began))}" >"$TARGET/fetched.json"
        EOT
      }

      template {
        destination = "local/open.sh"
        change_mode = "noop"
        data        = <<-EOT
        #!/bin/sh
        # Owns how restic's repository is opened, for the scripts beside this one, and the words for why it does not open.
        # Names: RESTIC_*, AWS_* are restic's own. Sets REPOSITORY to "there" or "absent".
        set -eu

        fail() {
            echo "FAILED: $*" >&2
            exit 1
        }

        # Pack files are put together here; the container's /tmp is memory.
        export TMPDIR="$NOMAD_ALLOC_DIR/data" RESTIC_CACHE_DIR="$NOMAD_ALLOC_DIR/data/cache"

        export REPOSITORY=there
        # Without a lock: one that a killed run left must keep nobody from a restore.
        if ! said=$(restic cat config --no-lock 2>&1 >/dev/null); then
            case $said in
                *"wrong password"*) fail "the bucket holds backups under another password. Give it as 'backup: {password: …}'
        (the escrow file has it), or name another bucket." ;;
                # restic then says that there may be none, too.
                *"Access Denied"* | *AccessDenied*) fail "$RESTIC_REPOSITORY is not open to this stack's key: $said
        Is the bucket somebody else's, or the key of another one?" ;;
                *"Is there a repository at the following location"* | *"does not exist"*) REPOSITORY=absent ;;
                *) fail "$RESTIC_REPOSITORY cannot be read: $said" ;;
            esac
        fi
        EOT
      }

      template {
        destination = "secrets/backup.env"
        env         = true
        change_mode = "noop"
        perms       = "0600"
        data        = <<-EOT
        {{ with nomadVar "nomad/jobs/pds-candidate" }}{{ range .Tuples }}{{ .K }}={{ .V | toJSON }}
        {{ end }}{{ end }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "candidate" {
      driver = "docker"
      user   = "1000:1000"

      config {
        image           = "${NOMAD_META_image}"
        command         = "node"
        args            = ["/local/candidate.cjs"]
        network_mode    = "none"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      env {
        TZ              = "UTC"
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
        TRIAL           = "candidate"
      }

      template {
        destination = "local/candidate.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Whether another version of the server does its work, on throw-away data: accounts, records, blobs, the event stream,
        // and all of it again after a restart. That it answers health says little.
        //
        // Runs in the candidate's image, in a container without a network, and starts the image's own server. Identities need a
        // directory: a small one, here, on loopback; the public one never hears of them. What is read back is read by
        // repository.cjs. The outcome is left for the next task, which has the copy of the newest backup (serve.cjs).
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const http = require("node:http");
        const path = require("node:path");
        const { directory } = require("./directory.cjs");
        const { decodeAll, home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
        const { Server } = require("./server.cjs");

        const PATIENCE = 30000; // ms for an event
        const POSTS = "app.bsky.feed.post";
        const BLOBS = "at.noted.try.blob";
        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const data = path.join(scratch, "throwaway");
        const domain = (process.env.PDS_SERVICE_HANDLE_DOMAINS || `.$${process.env.PDS_HOSTNAME}`).split(",")[0];

        class Wrong extends Error {}

        async function main() {
          const began = Date.now();
          const found = [];
          fs.mkdirSync(data, { recursive: true });
          const identities = await directory();
          const more = {
            PDS_DID_PLC_URL: identities.url,
            PDS_INVITE_REQUIRED: "false",
            PDS_DISABLE_SSRF_PROTECTION: "true", // newer servers would not ask a directory on loopback
          };
          const server = new Server(data, more);
          try {
            await server.start();
            console.log(`candidate $${server.version} answers on throw-away data`);
            const made = await work(server);
            await server.stop();
            await server.start();
            await again(server, made);
            console.log("after a restart all of it is there, and more is taken");
          } catch (error) {
            found.push(error instanceof Wrong ? error.message : `$${error.message}\n$${error.stack}`);
          }
          await server.stop();
          fs.rmSync(data, { recursive: true, force: true });
          for (const problem of found) console.error(`FAULT: on throw-away data: $${problem}`);
          const verdict = { problems: found, seconds: (Date.now() - began) / 1000 };
          fs.writeFileSync(path.join(scratch, "verdict.json"), JSON.stringify(verdict), { flush: true });
          process.exit(found.length > 0 ? 1 : 0);
        }

        async function work(server) {
          const accounts = [];
          for (const name of ["one", "two"]) {
            const password = crypto.randomBytes(16).toString("hex");
            const body = { handle: `trial-$${name}$${domain}`, email: `$${name}@my-club.org`, password };
            accounts.push({ ...(await call(server, "server.createAccount", { body })), password });
          }
          const [{ did, accessJwt: token }] = accounts;
          const stream = await subscribe(server);
          const post = await record(server, did, token, POSTS, { text: "a trial", createdAt: new Date().toISOString() });
          await heard(stream, did, post);
          console.log("2 accounts made; a post written, and on the event stream");

          const content = crypto.randomBytes(100000);
          const { blob } = await call(server, "repo.uploadBlob", { token, content });
          const cid = blob.ref.$link;
          const kept = await record(server, did, token, BLOBS, { blob });
          await heard(stream, did, kept);
          const gone = await record(server, did, token, POSTS, { text: "to go", createdAt: new Date().toISOString() });
          await heard(stream, did, gone);
          const rkey = gone.uri.split("/").pop();
          await call(server, "repo.deleteRecord", { token, body: { repo: did, collection: POSTS, rkey } });
          await heard(stream, did, { ...gone, cid: null });
          stream.close();
          await served(server, did, cid, [post, kept]);
          console.log("a blob taken and given back, a post deleted, the repository whole");
          return { did, password: accounts[0].password, cid, records: [post, kept] };
        }

        async function again(server, { did, password, cid, records }) {
          const { accessJwt: token } = await call(server, "server.createSession", { body: { identifier: did, password } });
          await served(server, did, cid, records);
          await record(server, did, token, POSTS, { text: "once more", createdAt: new Date().toISOString() });
        }

        /** What anybody sees of the repository: every record, a tree that holds together, and the blob. */
        async function served(server, did, cid, records) {
          const file = path.join(scratch, "throwaway.car");
          fs.writeFileSync(file, await call(server, "sync.getRepo", { parameters: { did } }));
          const car = openCar(file);
          const { rev } = await call(server, "sync.getLatestCommit", { parameters: { did } });
          const { verifier } = publicKey(fs.readFileSync(path.join(data, home(did), "key")));
          const wrong = [...problems({ ...car, rev, did, verifier })];
          for (const { uri, cid } of records) if (!car.blocks.has(cid)) wrong.push(`$${uri} is not in its repository`);
          car.close();
          fs.rmSync(file);
          if (wrong.length > 0) throw new Wrong(wrong.join("; "));
          const blob = await call(server, "sync.getBlob", { parameters: { did, cid } });
          if (!isDigestOf(cid, crypto.createHash("sha256").update(blob).digest())) throw new Wrong("a blob came back changed");
        }

        function record(server, did, token, collection, content) {
          const body = { repo: did, collection, record: { $type: collection, ...content }, validate: false };
          return call(server, "repo.createRecord", { token, body });
        }

        /** A call, and its answer: JSON as a value, all else as bytes. Throws what the server said to it. */
        async function call(server, method, { parameters = {}, body, content, token }) {
          const url = `$${server.url}/xrpc/com.atproto.$${method}?$${new URLSearchParams(parameters)}`;
          const type = content ? "application/octet-stream" : "application/json";
          const sent = content ?? (body && JSON.stringify(body));
          const headers = { ...(token && { authorization: `Bearer $${token}` }), ...(sent && { "content-type": type }) };
          const answer = await fetch(url, { method: sent ? "POST" : "GET", headers, body: sent });
          const bytes = Buffer.from(await answer.arrayBuffer());
          if (!answer.ok) throw new Wrong(`$${method} is answered with $${answer.status} $${bytes.toString().slice(0, 300)}`);
          return answer.headers.get("content-type")?.startsWith("application/json") ? JSON.parse(bytes) : bytes;
        }

        // --- the event stream: a WebSocket, of which only the server's frames are read (RFC 6455, section 5.2)

        async function subscribe(server) {
          const url = `$${server.url}/xrpc/com.atproto.sync.subscribeRepos`;
          const key = crypto.randomBytes(16).toString("base64");
          const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" };
          const request = http.get(url, { headers: { ...headers, "sec-websocket-key": key } });
          const socket = await new Promise((resolve, reject) => {
            request.on("upgrade", (_answer, socket) => resolve(socket));
            request.on("response", (answer) => reject(new Wrong(`the event stream answers $${answer.statusCode}`)));
            request.on("error", reject);
          });
          const commits = [];
          let rest = Buffer.alloc(0);
          socket.on("error", () => {});
          socket.on("data", (chunk) => {
            rest = Buffer.concat([rest, chunk]);
            for (let frame; (frame = nextFrame(rest)); rest = rest.subarray(frame.end)) {
              if (frame.opcode !== 2) continue;
              const [header, event] = decodeAll(frame.content);
              if (header.t === "#commit") commits.push(event);
            }
          });
          return { commits, close: () => socket.destroy() };
        }

        function nextFrame(bytes) {
          if (bytes.length < 2) return null;
          const short = bytes[1] & 127;
          const start = short === 127 ? 10 : short === 126 ? 4 : 2;
          if (bytes.length < start) return null;
          const size = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short;
          if (bytes.length < start + size) return null;
          return { opcode: bytes[0] & 15, content: bytes.subarray(start, start + size), end: start + size };
        }

        async function heard(stream, did, { uri, cid }) {
          const named = uri.split("/").slice(-2).join("/");
          const told = ({ repo, ops }) =>
            repo === did && ops.some((op) => op.path === named && (op.cid?.toString() ?? null) === cid);
          for (const end = Date.now() + PATIENCE; !stream.commits.some(told); ) {
            if (Date.now() > end) throw new Wrong(`the event stream says nothing of $${named}`);
            await new Promise((resume) => setTimeout(resume, 50));
          }
        }

        main();
        EOT
      }

      template {
        destination = "local/directory.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // A directory of identities for throw-away accounts: what the server asks of one, in memory, on loopback.
        //
        // The public directory must never hear of a trial: an identity there is for ever. Nothing is checked here.
        "use strict";

        const http = require("node:http");

        /** Start it on a free port; `url` is where the server finds it. */
        async function directory() {
          const operations = new Map();
          const listener = http.createServer(async (request, response) => {
            const [, did, ...rest] = decodeURIComponent(request.url).split("/");
            if (request.method === "POST") {
              const chunks = [];
              for await (const chunk of request) chunks.push(chunk);
              operations.set(did, JSON.parse(Buffer.concat(chunks)));
              return response.end("{}");
            }
            const found = operations.get(did);
            const [status, answer] = found ? [200, view(did, found, rest.join("/"))] : [404, { message: "not registered" }];
            response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
          });
          await new Promise((resume) => listener.listen(0, "127.0.0.1", resume));
          listener.unref();
          // By name: the server refuses to ask a bare address.
          return { url: `http://localhost:$${listener.address().port}` };
        }

        /** The three forms in which a directory tells of an identity (web.plc.directory/spec). */
        function view(did, { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation }, form) {
          if (form === "data") return { did, verificationMethods, rotationKeys, alsoKnownAs, services };
          if (form === "log/last") return { verificationMethods, rotationKeys, alsoKnownAs, services, ...operation };
          const publicKeyMultibase = verificationMethods.atproto.slice("did:key:".length);
          const { type, endpoint } = services.atproto_pds;
          return {
            "@context": ["https://www.w3.org/ns/did/v1"],
            id: did,
            alsoKnownAs,
            verificationMethod: [{ id: `$${did}#atproto`, type: "Multikey", controller: did, publicKeyMultibase }],
            service: [{ id: "#atproto_pds", type, serviceEndpoint: endpoint }],
          };
        }

        module.exports = { directory };
        EOT
      }

      template {
        destination = "local/repository.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // One member's repository, read without the server's libraries: blocks, records, signature, and the account's key.
        //
        // The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
        // a signed commit on top. Owns the format, and where a server keeps it. Whoever checks a backup with the code that
        // wrote it learns that the code agrees with itself; this is a second reading, as tools/repository.py is a third one on
        // the owner's machine.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          toString() {
            let bits = 0;
            let value = 0;
            let text = "b";
            for (const byte of this.bytes) {
              value = (value << 8) | byte;
              for (bits += 8; bits >= 5; bits -= 5) text += BASE32[(value >> (bits - 5)) & 31];
              value &= 31; // what is left is less than one letter
            }
            return bits > 0 ? text + BASE32[(value << (5 - bits)) & 31] : text;
          }
        }

        // --- DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/): definite lengths, text keys, one tag

        class Reader {
          constructor(bytes) {
            this.bytes = bytes;
            this.at = 0;
          }

          take(count) {
            if (this.at + count > this.bytes.length) throw new Error("it ends too early");
            this.at += count;
            return this.bytes.subarray(this.at - count, this.at);
          }

          head() {
            const first = this.take(1)[0];
            const info = first & 31;
            if (info < 24) return [first >> 5, info];
            if (info > 27) throw new Error("it has an indefinite length");
            const width = 1 << (info - 24);
            const rest = this.take(width);
            if (first >> 5 === 7) return [7, info, rest];
            return [first >> 5, width === 8 ? Number(rest.readBigUInt64BE()) : rest.readUIntBE(0, width)];
          }

          value() {
            const [major, count, rest] = this.head();
            switch (major) {
              case 0:
                return count;
              case 1:
                return -1 - count;
              case 2:
                return Buffer.from(this.take(count));
              case 3:
                return this.take(count).toString();
              case 4:
                return Array.from({ length: count }, () => this.value());
              case 5:
                return this.map(count);
              case 6:
                if (count !== 42) throw new Error(`it has the tag $${count}`);
                return new Cid(this.value().subarray(1)); // a zero comes first
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          map(count, entries = []) {
            for (; entries.length < count; ) {
              const from = this.at;
              const key = this.value();
              if (typeof key !== "string") throw new Error("it has a key that is no text");
              entries.push({ key, value: this.value(), from, to: this.at });
            }
            return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
          }
        }

        /** The value of a whole block. Throws where it is no DAG-CBOR. */
        function decode(bytes) {
          const reader = new Reader(bytes);
          const value = reader.value();
          if (reader.at !== bytes.length) throw new Error("it goes on after its end");
          return value;
        }

        /** The values that follow one another. Throws as above. */
        function decodeAll(bytes) {
          const reader = new Reader(bytes);
          const values = [];
          while (reader.at < bytes.length) values.push(reader.value());
          return values;
        }

        /** What was signed: the commit's block without its signature. The order of the other entries stays. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- hashes and keys

        /** Whether `content` is what `cid` (text) names. */
        function isHashOf(cid, content) {
          return isDigestOf(cid, crypto.createHash("sha256").update(content).digest());
        }

        /** Whether `cid` names what has this SHA-256: version 1, of a record or of raw bytes. */
        function isDigestOf(cid, digest) {
          return [0x71, 0x55].some((codec) => new Cid(Buffer.from([1, codec, 0x12, 0x20, ...digest])).toString() === cid);
        }

        /** A secp256k1 private key of 32 bytes: the key to check signatures with, and its did:key. Throws where it is none. */
        function publicKey(privateKey) {
          const pair = crypto.createECDH("secp256k1");
          pair.setPrivateKey(privateKey);
          const point = pair.getPublicKey();
          const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
          const compressed = pair.getPublicKey(null, "compressed");
          return {
            verifier: crypto.createPublicKey({ key: { kty: "EC", crv: "secp256k1", x, y }, format: "jwk" }),
            didKey: `did:key:z$${base58(Buffer.from([0xe7, 0x01, ...compressed]))}`,
          };
        }

        function base58(bytes) {
          let number = BigInt(`0x$${bytes.toString("hex")}`);
          let text = "";
          for (; number > 0n; number /= 58n) text = BASE58[Number(number % 58n)] + text;
          return text;
        }

        // --- repositories

        /** Path and CID of each record below the tree's node `cid`, in order. */
        function* records(blocks, cid) {
          const node = block(blocks, cid);
          if (node.l) yield* records(blocks, node.l);
          let before = Buffer.alloc(0);
          for (const entry of node.e) {
            before = Buffer.concat([before.subarray(0, entry.p), entry.k]);
            yield [before.toString(), entry.v.toString()];
            if (entry.t) yield* records(blocks, entry.t);
          }
        }

        function block(blocks, cid) {
          const found = blocks.get(cid.toString());
          if (!found) throw new Error(`block $${cid} is missing`);
          return decode(found);
        }

        /**
         * What is wrong with a repository: `blocks` by CID, its newest commit `root` at `rev`, and `verifier`, with which the
         * account's key is checked. `index` is what the server's own table says, path to CID, where there is one.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          for (const [cid, content] of blocks) if (!isHashOf(cid, content)) yield `block $${cid} does not hash to its name`;
          let tree;
          try {
            const commit = block(blocks, root);
            if (commit.rev !== rev || commit.did !== did) {
              yield `commit $${root} is of $${commit.did} at $${commit.rev}, not of $${did} at $${rev}`;
            }
            const key = { key: verifier, dsaEncoding: "ieee-p1363" };
            if (!crypto.verify("sha256", unsigned(blocks.get(root)), key, commit.sig)) {
              yield `commit $${root} is not signed with the account's key`;
            }
            tree = new Map(records(blocks, commit.data));
          } catch (error) {
            yield `the blocks do not link up from the root: $${error.message}`;
            return;
          }
          index ??= tree;
          for (const path of [...new Set([...tree.keys(), ...index.keys()])].sort()) {
            if (tree.get(path) !== index.get(path)) {
              yield `record $${path} is $${tree.get(path)} in the repository and $${index.get(path)} in the index`;
            } else if (!blocks.has(tree.get(path))) yield `record $${path} has no block $${tree.get(path)}`;
          }
        }

        /**
         * An exported repository in the file `name` (https://ipld.io/specs/transport/car/carv1/): its root, and its blocks as a
         * map that is not in memory. `close` it.
         */
        function openCar(name) {
          const handle = fs.openSync(name);
          const { size } = fs.fstatSync(handle);
          const bytes = (at, count) => {
            const buffer = Buffer.alloc(count);
            if (fs.readSync(handle, buffer, 0, count, at) !== count) throw new Error("it ends too early");
            return buffer;
          };
          const length = (at) => {
            const head = bytes(at, Math.min(10, size - at));
            const last = head.findIndex((byte) => byte < 128);
            if (last < 0) throw new Error("it has a length without an end");
            const value = head.subarray(0, last + 1).reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);
            return [at + last + 1, value];
          };
          const [start, count] = length(0);
          const header = decode(bytes(start, count));
          const places = new Map();
          for (let at = start + count; at < size; ) {
            const [from, whole] = length(at);
            if (from + whole > size) throw new Error("it ends too early");
            places.set(new Cid(bytes(from, 36)).toString(), [from + 36, whole - 36]);
            at = from + whole;
          }
          const get = (cid) => (places.has(cid) ? bytes(...places.get(cid)) : undefined);
          return {
            root: header.roots[0].toString(),
            blocks: {
              get,
              has: (cid) => places.has(cid),
              *[Symbol.iterator]() {
                for (const cid of places.keys()) yield [cid, get(cid)];
              },
            },
            close: () => fs.closeSync(handle),
          };
        }

        // --- where it lies

        /** Below the server's data, an account's folder (`getLocation` of @atproto/pds's actor-store). */
        function home(did) {
          return path.join("actors", crypto.createHash("sha256").update(did).digest("hex").slice(0, 2), did);
        }

        /** A file's hash, as hex. */
        function sha256(name) {
          const hash = crypto.createHash("sha256");
          const buffer = Buffer.allocUnsafe(1024 * 1024);
          const handle = fs.openSync(name);
          try {
            for (let got; (got = fs.readSync(handle, buffer)) > 0; ) hash.update(buffer.subarray(0, got));
          } finally {
            fs.closeSync(handle);
          }
          return hash.digest("hex");
        }

        module.exports = { decode, decodeAll, home, isDigestOf, openCar, problems, publicKey, sha256 };
        EOT
      }

      template {
        destination = "local/server.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The image's own server, started on a data directory for a trial: on loopback, with secrets of nobody's.
        "use strict";

        const { spawn } = require("node:child_process");
        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const PORT = 3000;
        const START = 120000; // ms; a server that has to bring large databases up to its version
        const STOP = 30000; // ms
        // The image's own, in its working directory: upstream's is index.js up to 0.4.219, and index.ts in 0.4.50xx.
        const entry = process.env.TRIAL_ENTRY ?? (fs.existsSync("index.ts") ? "index.ts" : "index.js");

        const secret = () => crypto.randomBytes(32).toString("hex");

        class Server {
          /** `more` is what the server is told beside the places of its files. */
          constructor(data, more = {}) {
            this.url = `http://127.0.0.1:$${PORT}`;
            this.said = "";
            this.env = {
              ...process.env,
              LOG_ENABLED: "false",
              PDS_DATA_DIRECTORY: data,
              PDS_BLOBSTORE_DISK_LOCATION: path.join(data, "blocks"),
              PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(data, "temp"),
              PDS_PORT: String(PORT),
              PDS_RATE_LIMITS_ENABLED: "false",
              PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
              PDS_JWT_SECRET: secret(),
              PDS_ADMIN_PASSWORD: secret(),
              ...more,
            };
          }

          /** Returns once it answers. Throws where it ends, or never does. */
          async start() {
            const child = spawn(process.execPath, ["--enable-source-maps", entry], { env: this.env, stdio: "pipe" });
            this.child = child;
            this.ended = new Promise((resolve) => child.on("exit", resolve));
            let over = false;
            this.ended.then(() => (over = true));
            for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (this.said += text));
            for (const end = Date.now() + START; !(await this.healthy()); ) {
              if (over || Date.now() > end) throw new Error(this.why());
              await new Promise((resume) => setTimeout(resume, 200));
            }
          }

          why() {
            const [, migration] = /previously executed migration ([\w-]+) is missing/.exec(this.said) ?? [];
            if (migration) {
              return (
                `this version is older than the data: it does not know their migration $${migration}. ` +
                "Going back is a restore: of a backup from before it"
              );
            }
            return `the server does not come up. It said:\n$${this.said.split("\n").slice(-20).join("\n")}`;
          }

          async healthy() {
            try {
              const answer = await fetch(`$${this.url}/xrpc/_health`);
              this.version = (await answer.json()).version;
              return answer.ok;
            } catch {
              return false;
            }
          }

          async stop() {
            if (!this.child) return;
            const late = setTimeout(() => this.child.kill("SIGKILL"), STOP);
            this.child.kill();
            await this.ended;
            clearTimeout(late);
            this.child = null;
          }
        }

        module.exports = { Server };
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }

    task "serve" {
      driver = "docker"
      user   = "1000:1000"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        image           = "${NOMAD_META_image}"
        command         = "node"
        args            = ["/local/serve.cjs"]
        network_mode    = "none"
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        pids_limit      = 128

        mount {
          type   = "tmpfs"
          target = "/tmp"

          tmpfs_options {
            size = 67108864
          }
        }
      }

      env {
        TZ              = "UTC"
        PDS_HOSTNAME    = "noted.at"
        PDS_DID_PLC_URL = "https://plc.directory"
        TRIAL           = "candidate"
      }

      template {
        destination = "local/serve.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // A server on the scratch copy of a backup, with no way out: it starts, and serves every repository and blob in it.
        //
        // Runs in a container without a network, after the task whose verdict it finds: as the second half of a drill in the
        // server's image (drill.cjs), and of a trial in a candidate's (candidate.cjs). Every repository is asked for as a
        // stranger would, and read by repository.cjs. The copy is then removed. A drill's outcome is left in DATA/.stamps for
        // the job that watches, also where the first half found faults; of a trial is said what it would do to the data.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");
        const { createRequire } = require("node:module");
        const { pipeline } = require("node:stream/promises");
        const { home, isDigestOf, openCar, problems, publicKey } = require("./repository.cjs");
        const { Server } = require("./server.cjs");

        const scratch = path.join(process.env.NOMAD_ALLOC_DIR, "data");
        const copy = path.join(scratch, "fetched");
        const drill = process.env.TRIAL !== "candidate";
        const outcome = drill ? require("./stamp.cjs").stamp : () => {};
        const statuses = ["RepoDeactivated", "RepoTakendown", "RepoSuspended"];

        async function main() {
          const found = { problems: ["the copy was not looked at: see the task before"] };
          let manifest = null;
          try {
            Object.assign(found, JSON.parse(fs.readFileSync(path.join(scratch, "verdict.json"), "utf8")));
            manifest = JSON.parse(fs.readFileSync(path.join(copy, "manifest.json"), "utf8"));
          } catch (error) {
            if (error.code !== "ENOENT") throw error;
            if (!drill && found.problems.length === 0) found.problems.push("no backup was fetched: the first task says why");
          }
          const known = drill || manifest ? found.problems.length : 0; // they were said
          if (manifest && known === 0) await serve(manifest, found);
          for (const name of ["fetched", "served.car"]) fs.rmSync(path.join(scratch, name), { recursive: true, force: true });
          outcome("drill", found.problems, { of: manifest?.started });
          for (const problem of found.problems.slice(known)) console.error(`FAULT: $${problem}`);
          if (found.problems.length > 0) process.exit(1);
          if (drill) report(manifest, found);
        }

        function report(manifest, found) {
          const fetched = JSON.parse(fs.readFileSync(path.join(scratch, "fetched.json"), "utf8")).seconds;
          const point = Date.parse(manifest.started);
          console.log(`recovery point  $${manifest.started}, $${((Date.now() - point) / 60000).toFixed(0)} minutes ago`);
          const [looked, served] = [found.seconds, found.served].map((seconds) => `$${seconds.toFixed(1)} s`);
          console.log(
            `recovery time   $${(fetched + found.seconds + found.served).toFixed(1)} s: fetched in $${fetched} s, looked at in ` +
              `$${looked}, served in $${served}`
          );
        }

        async function serve(manifest, found) {
          const began = Date.now();
          const before = drill ? null : migrations();
          const server = new Server(copy);
          try {
            await server.start();
            let served = 0;
            const accounts = new Set(manifest.accounts);
            for (const [did, known] of Object.entries(manifest.repositories)) {
              if (!accounts.has(did)) {
                // A server that is killed while it makes an account leaves this behind, and serves it to nobody.
                console.log(`note: $${did} has a repository and no account`);
                continue;
              }
              const wrong = await wrongWith(server, did, known, manifest.blobs === "disk");
              found.problems.push(...wrong.map((problem) => `$${did}: $${problem}`));
              served++;
            }
            found.served = (Date.now() - began) / 1000;
            console.log(`$${served} repositories served by the server on the copy: $${found.problems.length} faults`);
          } catch (error) {
            found.problems.push(`on the copy: $${error.message}`);
          } finally {
            await server.stop();
          }
          if (drill || found.problems.length > 0) return;
          for (const name of migrations()) if (!before.includes(name)) console.log(`MIGRATES $${name}`);
        }

        /** Which migrations the databases of the server have seen, as "account.sqlite 007". */
        function migrations() {
          const app = createRequire(path.join(process.cwd(), "x.js"));
          const Database = createRequire(app.resolve("@atproto/pds/package.json"))("better-sqlite3");
          return ["account.sqlite", "sequencer.sqlite"].flatMap((name) => {
            const db = new Database(path.join(copy, name), { fileMustExist: true });
            try {
              const names = db.prepare("select name from kysely_migration order by name").pluck().all();
              return names.map((migration) => `$${name} $${migration}`);
            } finally {
              db.close();
            }
          });
        }

        async function wrongWith(server, did, known, blobsToo) {
          const ask = (method, parameters) =>
            fetch(`$${server.url}/xrpc/com.atproto.sync.$${method}?$${new URLSearchParams(parameters)}`);
          const answer = await ask("getRepo", { did });
          if (!answer.ok) {
            const { error } = await answer.json();
            return statuses.includes(error) ? [] : [`its repository is not served: $${error}`];
          }
          const wrong = [];
          const file = path.join(scratch, "served.car");
          try {
            await pipeline(answer.body, fs.createWriteStream(file));
            const car = openCar(file);
            const { verifier } = publicKey(fs.readFileSync(path.join(copy, home(did), "key")));
            if (car.root !== known.cid) wrong.push(`$${car.root} is served, the manifest says $${known.cid}`);
            else wrong.push(...problems({ ...car, rev: known.rev, did, verifier }));
            car.close();
          } catch (error) {
            wrong.push(`what is served is no repository: $${error.message}`);
          }
          for (const cid of blobsToo ? known.blobs : []) {
            if (fs.existsSync(path.join(copy, "blocks", "quarantine", did, cid))) continue; // taken down
            const blob = await ask("getBlob", { did, cid });
            const hash = crypto.createHash("sha256");
            if (!blob.ok) wrong.push(`blob $${cid} is not served: $${(await blob.json()).error}`);
            else await pipeline(blob.body, hash);
            if (blob.ok && !isDigestOf(cid, hash.digest())) wrong.push(`blob $${cid} is served as something else`);
          }
          return wrong;
        }

        main().catch((error) => {
          outcome("drill", [error.message], {});
          console.error(`FAILED: $${error.stack}`);
          process.exit(1);
        });
        EOT
      }

      template {
        destination = "local/repository.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // One member's repository, read without the server's libraries: blocks, records, signature, and the account's key.
        //
        // The format is https://atproto.com/specs/repository: blocks of DAG-CBOR named by their hash, a tree of records (MST),
        // a signed commit on top. Owns the format, and where a server keeps it. Whoever checks a backup with the code that
        // wrote it learns that the code agrees with itself; this is a second reading, as tools/repository.py is a third one on
        // the owner's machine.
        "use strict";

        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          toString() {
            let bits = 0;
            let value = 0;
            let text = "b";
            for (const byte of this.bytes) {
              value = (value << 8) | byte;
              for (bits += 8; bits >= 5; bits -= 5) text += BASE32[(value >> (bits - 5)) & 31];
              value &= 31; // what is left is less than one letter
            }
            return bits > 0 ? text + BASE32[(value << (5 - bits)) & 31] : text;
          }
        }

        // --- DAG-CBOR (https://ipld.io/specs/codecs/dag-cbor/spec/): definite lengths, text keys, one tag

        class Reader {
          constructor(bytes) {
            this.bytes = bytes;
            this.at = 0;
          }

          take(count) {
            if (this.at + count > this.bytes.length) throw new Error("it ends too early");
            this.at += count;
            return this.bytes.subarray(this.at - count, this.at);
          }

          head() {
            const first = this.take(1)[0];
            const info = first & 31;
            if (info < 24) return [first >> 5, info];
            if (info > 27) throw new Error("it has an indefinite length");
            const width = 1 << (info - 24);
            const rest = this.take(width);
            if (first >> 5 === 7) return [7, info, rest];
            return [first >> 5, width === 8 ? Number(rest.readBigUInt64BE()) : rest.readUIntBE(0, width)];
          }

          value() {
            const [major, count, rest] = this.head();
            switch (major) {
              case 0:
                return count;
              case 1:
                return -1 - count;
              case 2:
                return Buffer.from(this.take(count));
              case 3:
                return this.take(count).toString();
              case 4:
                return Array.from({ length: count }, () => this.value());
              case 5:
                return this.map(count);
              case 6:
                if (count !== 42) throw new Error(`it has the tag $${count}`);
                return new Cid(this.value().subarray(1)); // a zero comes first
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          map(count, entries = []) {
            for (; entries.length < count; ) {
              const from = this.at;
              const key = this.value();
              if (typeof key !== "string") throw new Error("it has a key that is no text");
              entries.push({ key, value: this.value(), from, to: this.at });
            }
            return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
          }
        }

        /** The value of a whole block. Throws where it is no DAG-CBOR. */
        function decode(bytes) {
          const reader = new Reader(bytes);
          const value = reader.value();
          if (reader.at !== bytes.length) throw new Error("it goes on after its end");
          return value;
        }

        /** The values that follow one another. Throws as above. */
        function decodeAll(bytes) {
          const reader = new Reader(bytes);
          const values = [];
          while (reader.at < bytes.length) values.push(reader.value());
          return values;
        }

        /** What was signed: the commit's block without its signature. The order of the other entries stays. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- hashes and keys

        /** Whether `content` is what `cid` (text) names. */
        function isHashOf(cid, content) {
          return isDigestOf(cid, crypto.createHash("sha256").update(content).digest());
        }

        /** Whether `cid` names what has this SHA-256: version 1, of a record or of raw bytes. */
        function isDigestOf(cid, digest) {
          return [0x71, 0x55].some((codec) => new Cid(Buffer.from([1, codec, 0x12, 0x20, ...digest])).toString() === cid);
        }

        /** A secp256k1 private key of 32 bytes: the key to check signatures with, and its did:key. Throws where it is none. */
        function publicKey(privateKey) {
          const pair = crypto.createECDH("secp256k1");
          pair.setPrivateKey(privateKey);
          const point = pair.getPublicKey();
          const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString("base64url"));
          const compressed = pair.getPublicKey(null, "compressed");
          return {
            verifier: crypto.createPublicKey({ key: { kty: "EC", crv: "secp256k1", x, y }, format: "jwk" }),
            didKey: `did:key:z$${base58(Buffer.from([0xe7, 0x01, ...compressed]))}`,
          };
        }

        function base58(bytes) {
          let number = BigInt(`0x$${bytes.toString("hex")}`);
          let text = "";
          for (; number > 0n; number /= 58n) text = BASE58[Number(number % 58n)] + text;
          return text;
        }

        // --- repositories

        /** Path and CID of each record below the tree's node `cid`, in order. */
        function* records(blocks, cid) {
          const node = block(blocks, cid);
          if (node.l) yield* records(blocks, node.l);
          let before = Buffer.alloc(0);
          for (const entry of node.e) {
            before = Buffer.concat([before.subarray(0, entry.p), entry.k]);
            yield [before.toString(), entry.v.toString()];
            if (entry.t) yield* records(blocks, entry.t);
          }
        }

        function block(blocks, cid) {
          const found = blocks.get(cid.toString());
          if (!found) throw new Error(`block $${cid} is missing`);
          return decode(found);
        }

        /**
         * What is wrong with a repository: `blocks` by CID, its newest commit `root` at `rev`, and `verifier`, with which the
         * account's key is checked. `index` is what the server's own table says, path to CID, where there is one.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          for (const [cid, content] of blocks) if (!isHashOf(cid, content)) yield `block $${cid} does not hash to its name`;
          let tree;
          try {
            const commit = block(blocks, root);
            if (commit.rev !== rev || commit.did !== did) {
              yield `commit $${root} is of $${commit.did} at $${commit.rev}, not of $${did} at $${rev}`;
            }
            const key = { key: verifier, dsaEncoding: "ieee-p1363" };
            if (!crypto.verify("sha256", unsigned(blocks.get(root)), key, commit.sig)) {
              yield `commit $${root} is not signed with the account's key`;
            }
            tree = new Map(records(blocks, commit.data));
          } catch (error) {
            yield `the blocks do not link up from the root: $${error.message}`;
            return;
          }
          index ??= tree;
          for (const path of [...new Set([...tree.keys(), ...index.keys()])].sort()) {
            if (tree.get(path) !== index.get(path)) {
              yield `record $${path} is $${tree.get(path)} in the repository and $${index.get(path)} in the index`;
            } else if (!blocks.has(tree.get(path))) yield `record $${path} has no block $${tree.get(path)}`;
          }
        }

        /**
         * An exported repository in the file `name` (https://ipld.io/specs/transport/car/carv1/): its root, and its blocks as a
         * map that is not in memory. `close` it.
         */
        function openCar(name) {
          const handle = fs.openSync(name);
          const { size } = fs.fstatSync(handle);
          const bytes = (at, count) => {
            const buffer = Buffer.alloc(count);
            if (fs.readSync(handle, buffer, 0, count, at) !== count) throw new Error("it ends too early");
            return buffer;
          };
          const length = (at) => {
            const head = bytes(at, Math.min(10, size - at));
            const last = head.findIndex((byte) => byte < 128);
            if (last < 0) throw new Error("it has a length without an end");
            const value = head.subarray(0, last + 1).reduceRight((sum, byte) => sum * 128 + (byte & 127), 0);
            return [at + last + 1, value];
          };
          const [start, count] = length(0);
          const header = decode(bytes(start, count));
          const places = new Map();
          for (let at = start + count; at < size; ) {
            const [from, whole] = length(at);
            if (from + whole > size) throw new Error("it ends too early");
            places.set(new Cid(bytes(from, 36)).toString(), [from + 36, whole - 36]);
            at = from + whole;
          }
          const get = (cid) => (places.has(cid) ? bytes(...places.get(cid)) : undefined);
          return {
            root: header.roots[0].toString(),
            blocks: {
              get,
              has: (cid) => places.has(cid),
              *[Symbol.iterator]() {
                for (const cid of places.keys()) yield [cid, get(cid)];
              },
            },
            close: () => fs.closeSync(handle),
          };
        }

        // --- where it lies

        /** Below the server's data, an account's folder (`getLocation` of @atproto/pds's actor-store). */
        function home(did) {
          return path.join("actors", crypto.createHash("sha256").update(did).digest("hex").slice(0, 2), did);
        }

        /** A file's hash, as hex. */
        function sha256(name) {
          const hash = crypto.createHash("sha256");
          const buffer = Buffer.allocUnsafe(1024 * 1024);
          const handle = fs.openSync(name);
          try {
            for (let got; (got = fs.readSync(handle, buffer)) > 0; ) hash.update(buffer.subarray(0, got));
          } finally {
            fs.closeSync(handle);
          }
          return hash.digest("hex");
        }

        module.exports = { decode, decodeAll, home, isDigestOf, openCar, problems, publicKey, sha256 };
        EOT
      }

      template {
        destination = "local/server.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // The image's own server, started on a data directory for a trial: on loopback, with secrets of nobody's.
        "use strict";

        const { spawn } = require("node:child_process");
        const crypto = require("node:crypto");
        const fs = require("node:fs");
        const path = require("node:path");

        const PORT = 3000;
        const START = 120000; // ms; a server that has to bring large databases up to its version
        const STOP = 30000; // ms
        // The image's own, in its working directory: upstream's is index.js up to 0.4.219, and index.ts in 0.4.50xx.
        const entry = process.env.TRIAL_ENTRY ?? (fs.existsSync("index.ts") ? "index.ts" : "index.js");

        const secret = () => crypto.randomBytes(32).toString("hex");

        class Server {
          /** `more` is what the server is told beside the places of its files. */
          constructor(data, more = {}) {
            this.url = `http://127.0.0.1:$${PORT}`;
            this.said = "";
            this.env = {
              ...process.env,
              LOG_ENABLED: "false",
              PDS_DATA_DIRECTORY: data,
              PDS_BLOBSTORE_DISK_LOCATION: path.join(data, "blocks"),
              PDS_BLOBSTORE_DISK_TMP_LOCATION: path.join(data, "temp"),
              PDS_PORT: String(PORT),
              PDS_RATE_LIMITS_ENABLED: "false",
              PDS_PLC_ROTATION_KEY_K256_PRIVATE_KEY_HEX: "1".padStart(64, "0"),
              PDS_JWT_SECRET: secret(),
              PDS_ADMIN_PASSWORD: secret(),
              ...more,
            };
          }

          /** Returns once it answers. Throws where it ends, or never does. */
          async start() {
            const child = spawn(process.execPath, ["--enable-source-maps", entry], { env: this.env, stdio: "pipe" });
            this.child = child;
            this.ended = new Promise((resolve) => child.on("exit", resolve));
            let over = false;
            this.ended.then(() => (over = true));
            for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (this.said += text));
            for (const end = Date.now() + START; !(await this.healthy()); ) {
              if (over || Date.now() > end) throw new Error(this.why());
              await new Promise((resume) => setTimeout(resume, 200));
            }
          }

          why() {
            const [, migration] = /previously executed migration ([\w-]+) is missing/.exec(this.said) ?? [];
            if (migration) {
              return (
                `this version is older than the data: it does not know their migration $${migration}. ` +
                "Going back is a restore: of a backup from before it"
              );
            }
            return `the server does not come up. It said:\n$${this.said.split("\n").slice(-20).join("\n")}`;
          }

          async healthy() {
            try {
              const answer = await fetch(`$${this.url}/xrpc/_health`);
              this.version = (await answer.json()).version;
              return answer.ok;
            } catch {
              return false;
            }
          }

          async stop() {
            if (!this.child) return;
            const late = setTimeout(() => this.child.kill("SIGKILL"), STOP);
            this.child.kill();
            await this.ended;
            clearTimeout(late);
            this.child = null;
          }
        }

        module.exports = { Server };
        EOT
      }

      template {
        destination = "local/stamp.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Leaves behind when a backup or drill first and last went well, and whether it went wrong since, for the job that
        // watches: DATA/.stamps/NAME.json. Run by itself it is the last task of a backup, after the one that sends, which may
        // not write there. Nomad does not run it after a snapshot that failed; snapshot.cjs says so itself.
        "use strict";

        const fs = require("node:fs");
        const path = require("node:path");

        const folder = path.join(process.env.PDS_DATA_DIRECTORY, ".stamps");

        /**
         * Note that `name` went well (no `problems`), or what went wrong; `more` is kept of what went well. Something may be
         * wrong beside a `good` one.
         */
        function stamp(name, problems, more = {}, good = problems.length === 0) {
          const file = path.join(folder, `$${name}.json`);
          const now = new Date().toISOString();
          let before = {};
          try {
            before = JSON.parse(fs.readFileSync(file, "utf8"));
          } catch {
            // None yet, or one that a crash left empty.
          }
          const after = {
            ...(good ? { first: before.first ?? now, good: now, ...more } : before),
            ...(problems.length > 0 && { failed: now, why: problems[0] }),
          };
          fs.mkdirSync(folder, { recursive: true, mode: 0o700 });
          fs.writeFileSync(`$${file}.next`, JSON.stringify(after) + "\n", { flush: true });
          fs.renameSync(`$${file}.next`, file);
        }

        module.exports = { stamp };

        if (require.main === module) {
          const [sent, checked] = ["sent", "checked"].map((name) =>
            fs.existsSync(path.join(process.env.NOMAD_ALLOC_DIR, "data", name))
          );
          const problems = [];
          if (!sent) problems.push("the snapshot was not sent");
          else if (!checked) problems.push("it was sent; thinning out, or reading a part of the bucket back, went wrong");
          stamp("backup", problems, {}, sent);
        }
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }

      logs {
        max_files     = 2
        max_file_size = 1
      }
    }
  }
}
