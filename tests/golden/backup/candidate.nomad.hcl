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
        const { Cid, Reader, decode, decodeAll, digestOf, isDigestOf } = require("./blocks.cjs");
        const { openCar } = require("./car.cjs");

        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        const NAMED = 100; // faults of a kind; of a repository that lost its table all records differ
        const PATH = /^[\w~.:-]+\/[\w~.:-]+$/; // https://atproto.com/specs/repository#repo-paths, and the server's own check

        // --- keys and signatures

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

        /** What was signed: the commit's block without its signature. The order of the other entries stays. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- repositories: walked in order, so that memory does not grow with the records

        /** One node of a tree, read entry by entry: one of many entries is large enough as bytes. */
        class Node {
          constructor(blocks, cid) {
            this.cid = cid;
            this.left = null;
            const reader = new Reader(found(blocks, cid));
            this.reader = reader;
            this.decoded(() => {
              const [major, count] = reader.head();
              for (let index = 0; index < count && major === 5; index++) this.field(reader.value());
              if (reader.at !== reader.bytes.length || this.from === undefined) throw new Error("it has other fields");
            });
          }

          field(name) {
            if (name === "l") this.left = this.reader.value();
            else if (name === "e") this.from = this.reader.skip();
            else throw new Error("it has other fields");
            if (!isLink(this.left)) throw new Error("its left side is no link");
          }

          decoded(read) {
            try {
              return read();
            } catch (error) {
              throw this.fault(`is no node of a tree: $${error.message}`);
            }
          }

          fault(text) {
            return new Error(`node $${this.cid} $${text}`);
          }

          /** Key, value and right side of each entry. */
          *entries() {
            this.reader.at = this.from;
            const [major, count] = this.reader.head();
            if (major !== 4) throw this.fault("is no node of a tree: it has no list");
            let before = "";
            for (let index = 0; index < count; index++) {
              const { p, k, v, t } = this.decoded(() => this.entry());
              const key = before.slice(0, p) + k.latin1Slice();
              if (key.length > 1024 || !PATH.test(key)) throw this.fault("has a key that is no path");
              const longer = p < before.length && before[p] === key[p];
              if (!Number.isInteger(p) || p < 0 || p > before.length || longer) {
                throw this.fault(`has $${key} with a wrong prefix`);
              }
              yield [key, v, t];
              before = key;
            }
          }

          entry() {
            const entry = this.reader.value();
            if (Buffer.isBuffer(entry.k) && entry.v instanceof Cid && isLink(entry.t)) return entry;
            throw new Error("it has an entry of another form");
          }
        }

        /** Whether it is a CID, or null, which stands for none. */
        function isLink(value) {
          return value === null || value instanceof Cid;
        }

        /** The layer of a tree in which a key belongs: half the number of zero bits at the start of its hash. */
        function layerOf(key) {
          const digest = digestOf(key);
          let zeros = 0;
          while (digest[zeros] === 0) zeros++;
          return zeros * 4 + ((Math.clz32(digest[zeros]) - 24) >> 1);
        }

        /**
         * Path and CID of each record in the tree below the node `top`, in the order of their bytes. Throws at what is no tree.
         * It ends for any blocks: a step down is a layer down, and of a subtree reached twice the keys do not ascend.
         */
        function* records(blocks, top) {
          let last = "";
          function* below(node, layer) {
            let empty = node.left === null;
            if (layer < 0) throw node.fault("is below the lowest layer");
            if (node.left) yield* below(new Node(blocks, node.left), layer - 1);
            for (const [key, value, right] of node.entries()) {
              empty = false;
              if (key <= last) throw node.fault(`has $${key} after $${last}`);
              const own = layerOf(key);
              if (own !== layer) throw node.fault(`has $${key} in layer $${layer}, not $${own}`);
              last = key;
              yield [key, value];
              if (right) yield* below(new Node(blocks, right), layer - 1);
            }
            if (empty) throw node.fault("is empty");
          }
          const root = new Node(blocks, top);
          const [first] = root.entries().next().value ?? [];
          if (first !== undefined) yield* below(root, layerOf(first));
          else if (root.left) throw root.fault("is the root and has no key"); // without both there are no records
        }

        function found(blocks, cid) {
          const content = blocks.get(cid);
          if (!content) throw new Error(`block $${cid} is missing`);
          return content;
        }

        /**
         * What is wrong with a repository: `blocks`, its newest commit `root` (text) at `rev`, and `verifier`, with which the
         * account's key is checked. `index` is what the server's own table says, if there is one: an iterable of `uri`, `cid`
         * (text), `filed` (the path by the other columns) and `stored` (whether the block is there), in the order of the URIs.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          yield* named(damaged(blocks), "blocks do not hash to their names");
          try {
            const content = found(blocks, root);
            const commit = decode(content);
            if (commit.rev !== rev || commit.did !== did) {
              yield `commit $${root} is of $${commit.did} at $${commit.rev}, not of $${did} at $${rev}`;
            }
            const key = { key: verifier, dsaEncoding: "ieee-p1363" };
            if (!crypto.verify("sha256", unsigned(content), key, commit.sig)) {
              yield `commit $${root} is not signed with the account's key`;
            }
            const tree = records(blocks, commit.data);
            yield* named(index ? differences(tree, index, `at://$${did}/`) : lacking(tree, blocks), "records are not whole");
          } catch (error) {
            yield `the blocks do not link up from the root: $${error.message}`;
          }
        }

        /** The first of them, and how many more there are. */
        function* named(faults, what) {
          let count = 0;
          try {
            for (const fault of faults) if (++count <= NAMED) yield fault;
          } finally {
            if (count > NAMED) yield `$${count - NAMED} more $${what}`;
          }
        }

        function* damaged(blocks) {
          for (const [cid, content] of blocks) {
            const name = cid instanceof Cid ? cid : Cid.from(String(cid));
            if (!name?.names(digestOf(content))) yield `block $${cid} does not hash to its name`;
          }
        }

        function* lacking(tree, blocks) {
          for (const [path, cid] of tree) if (!blocks.has(cid)) yield `record $${path} has no block $${cid}`;
        }

        /** Both are in the order of their URIs: neither is held as a whole. */
        function* differences(tree, index, prefix) {
          const rows = index[Symbol.iterator]();
          const next = () => rows.next().value;
          const surplus = ({ uri, cid }) => {
            const path = uri.startsWith(prefix) ? uri.slice(prefix.length) : uri;
            return `record $${path} is undefined in the repository and $${cid} in the index`;
          };
          try {
            let row = next();
            for (const [path, value] of tree) {
              const uri = prefix + path;
              for (; row && row.uri < uri; row = next()) yield surplus(row);
              const cid = String(value);
              const same = row?.uri === uri ? row : undefined;
              if (same?.cid !== cid) yield `record $${path} is $${cid} in the repository and $${same?.cid} in the index`;
              else if (!same.stored) yield `record $${path} has no block $${cid}`;
              if (same && same.filed !== path) yield `record $${path} is listed as $${same.filed} in the index`;
              if (same) row = next();
            }
            for (; row; row = next()) yield surplus(row);
          } finally {
            rows.return?.(); // a statement that is not at its end keeps its database open
          }
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
        const path = require("node:path");

        const PORT = 3000;
        const START = 120000; // ms; a server that has to bring large databases up to its version
        const STOP = 30000; // ms
        const entry = process.env.TRIAL_ENTRY ?? "index.js"; // the image's own

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
        destination = "local/blocks.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Blocks as the AT Protocol has them, read without the server's libraries: content identifiers and DAG-CBOR.
        //
        // Owns: the two formats, and whether a block is what its name says. What blocks make up together is repository.cjs's.
        "use strict";

        const crypto = require("node:crypto");

        const ALPHABET32 = Buffer.from("abcdefghijklmnopqrstuvwxyz234567");
        const DIGITS = new Int8Array(128).fill(-1);
        ALPHABET32.forEach((code, digit) => (DIGITS[code] = digit));

        const digestOf = crypto.hash // of newer Nodes, and twice as fast
          ? (content) => crypto.hash("sha256", content, "buffer")
          : (content) => crypto.createHash("sha256").update(content).digest();

        /** Whether `cid` (text) names what has this SHA-256. */
        function isDigestOf(cid, digest) {
          return Cid.from(cid)?.names(digest) ?? false;
        }

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          /** Returns undefined for a text that is no base32, or that another text of the same bytes stands for. */
          static from(text) {
            if (text[0] !== "b") return undefined;
            const bytes = Buffer.alloc(((text.length - 1) * 5) >> 3);
            let [bits, value, at] = [0, 0, 0];
            for (let index = 1; index < text.length; index++) {
              const digit = DIGITS[text.charCodeAt(index)];
              if (!(digit >= 0)) return undefined;
              value = (value << 5) | digit;
              bits += 5;
              if (bits < 8) continue;
              bits -= 8;
              bytes[at++] = value >> bits;
              value &= 255 >> (8 - bits);
            }
            return bits < 5 && value === 0 ? new Cid(bytes) : undefined;
          }

          toString() {
            const { bytes } = this;
            const text = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
            let [bits, value, at] = [0, 0, 0];
            for (let index = 0; index < bytes.length; index++) {
              value = ((value & 31) << 8) | bytes[index]; // what is left is less than one letter
              for (bits += 8; bits >= 5; bits -= 5) text[at++] = ALPHABET32[(value >> (bits - 5)) & 31];
            }
            if (bits > 0) text[at] = ALPHABET32[(value << (5 - bits)) & 31];
            return `b$${text.latin1Slice()}`;
          }

          /** Whether it names what has this SHA-256: version 1, any codec. */
          names(digest) {
            const { bytes } = this;
            const hash = bytes.length - 34;
            if (hash < 2 || bytes[0] !== 1 || bytes[hash] !== 0x12 || bytes[hash + 1] !== 0x20) return false;
            for (let at = 1; at < hash; at++) if (bytes[at] > 127 !== at < hash - 1) return false; // one number
            return bytes.compare(digest, 0, 32, hash + 2) === 0;
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
                return this.list(count);
              case 5:
                return this.map(count);
              case 6:
                return this.link(count);
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          /** What follows, unread. Returns where it began. */
          skip() {
            const from = this.at;
            for (let left = 1; left > 0; left--) {
              const [major, count] = this.head();
              if (major === 2 || major === 3) this.take(count);
              else if (major === 6) left += 1;
              else if (major === 4 || major === 5) left += (major - 3) * count;
            }
            return from;
          }

          /** Not allocated by the count, which may be anything. */
          list(count) {
            const values = [];
            while (values.length < count) values.push(this.value());
            return values;
          }

          link(tag) {
            const bytes = tag === 42 && this.value();
            if (!Buffer.isBuffer(bytes) || bytes[0] !== 0) throw new Error("it has a tag that is no link");
            return new Cid(bytes.subarray(1)); // a zero comes first
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

        module.exports = { Cid, Reader, decode, decodeAll, digestOf, isDigestOf };
        EOT
      }

      template {
        destination = "local/car.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // An exported repository, as the server serves it (https://ipld.io/specs/transport/car/carv1/): a file of blocks.
        //
        // Blocks come in any order, so they are found by a table. What they make up is repository.cjs's.
        "use strict";

        const fs = require("node:fs");
        const { Cid, decode } = require("./blocks.cjs");

        const HEAD = 512; // bytes; the length and the CID of a block, and most blocks as a whole
        const WINDOW = 1024 * 1024; // bytes of the file that are in memory at once, unless a block is larger

        /**
         * An exported repository in the file `name`: its root, and its blocks, which are not in memory. `close` it.
         */
        function openCar(name) {
          const blocks = new Car(name);
          return { root: blocks.root, blocks, close: () => blocks.close() };
        }

        class Car {
          constructor(name) {
            this.handle = fs.openSync(name);
            try {
              this.size = fs.fstatSync(this.handle).size;
              const [count, start] = number(this.read(0, HEAD), 0);
              this.first = start + count;
              this.root = String(decode(this.read(start, count, true)).roots[0]);
              let blocks = 0;
              for (const _ of this.sections()) blocks++; // so that the table has its size from the first
              this.places = new Places(blocks, this.size);
              for (const { at, cid } of this.sections()) this.places.add(cid.bytes, at);
            } catch (error) {
              this.close();
              throw error;
            }
          }

          close() {
            fs.closeSync(this.handle);
          }

          /** Bytes at a place; as many as there are, unless `all` are needed. */
          read(at, count, all = false, buffer = null) {
            const there = Math.min(count, this.size - at);
            if (all && there < count) throw new Error("it ends too early");
            const into = buffer && there <= buffer.length ? buffer : Buffer.allocUnsafe(there);
            const got = fs.readSync(this.handle, into, 0, there, at);
            if (got !== there) throw new Error("it ends too early");
            return into.subarray(0, there);
          }

          section(at, read) {
            const [length, start] = number(read(at, HEAD), 0);
            const end = start + length;
            if (at + end > this.size) throw new Error("it ends too early");
            const bytes = read(at, end);
            const from = endOfCid(bytes, start);
            if (from > end) throw new Error("it has a CID that is longer than its block");
            return { at, cid: new Cid(bytes.subarray(start, from)), content: bytes.subarray(from, end), next: at + end };
          }

          /** Every block, in one pass. What is given is valid until the next one. */
          *sections() {
            const buffer = Buffer.allocUnsafe(WINDOW);
            let [window, start] = [Buffer.alloc(0), 0];
            const read = (at, count) => {
              if (at + count > start + window.length) {
                window = this.read(at, Math.max(count, WINDOW), false, buffer);
                start = at;
              }
              return window.subarray(at - start, at - start + count);
            };
            for (let at = this.first; at < this.size; ) {
              const section = this.section(at, read);
              yield section;
              at = section.next;
            }
          }

          *[Symbol.iterator]() {
            for (const { cid, content } of this.sections()) yield [cid, content];
          }

          get(cid) {
            const { bytes } = (typeof cid === "string" ? Cid.from(cid) : cid) ?? {};
            for (const at of bytes ? this.places.of(bytes) : []) {
              const section = this.section(at, (place, count) => this.read(place, count));
              if (section.cid.bytes.equals(bytes)) return section.content;
            }
            return undefined;
          }

          has(cid) {
            return this.get(cid) !== undefined;
          }
        }

        /**
         * Offsets by the end of a CID, in a table with open addressing for `count` of them in a file of `size` bytes. It takes
         * 12 to 24 bytes a block, where a map takes some 200.
         */
        class Places {
          constructor(count, size) {
            const slots = 2 ** Math.ceil(Math.log2(count * 1.5 + 2));
            this.last = slots - 1;
            this.hashes = new Uint32Array(slots);
            this.offsets = size < 2 ** 32 ? new Uint32Array(slots) : new Float64Array(slots);
          }

          add(bytes, offset) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            let slot = hash & this.last;
            while (this.offsets[slot] > 0) slot = (slot + 1) & this.last;
            this.hashes[slot] = hash;
            this.offsets[slot] = offset;
          }

          of(bytes) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            const offsets = [];
            for (let slot = hash & this.last; this.offsets[slot] > 0; slot = (slot + 1) & this.last) {
              if (this.hashes[slot] === hash) offsets.push(this.offsets[slot]);
            }
            return offsets;
          }
        }

        /** A number of variable length, and where it ends. */
        function number(bytes, at) {
          let value = 0;
          for (let index = at, unit = 1; index < at + 10 && index < bytes.length; index++, unit *= 128) {
            value += (bytes[index] & 127) * unit;
            if (bytes[index] < 128) return [value, index + 1];
          }
          throw new Error("it has a length without an end");
        }

        function endOfCid(bytes, at) {
          if (bytes[at] === 0x12 && bytes[at + 1] === 0x20) return at + 34; // version 0
          let [count, end] = [0, at];
          for (let field = 0; field < 4; field++) [count, end] = number(bytes, end); // version, codec, hash, its length
          return end + count;
        }

        module.exports = { openCar };
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
        const { Cid, Reader, decode, decodeAll, digestOf, isDigestOf } = require("./blocks.cjs");
        const { openCar } = require("./car.cjs");

        const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        const NAMED = 100; // faults of a kind; of a repository that lost its table all records differ
        const PATH = /^[\w~.:-]+\/[\w~.:-]+$/; // https://atproto.com/specs/repository#repo-paths, and the server's own check

        // --- keys and signatures

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

        /** What was signed: the commit's block without its signature. The order of the other entries stays. */
        function unsigned(bytes) {
          const reader = new Reader(bytes);
          const [, count] = reader.head();
          const entries = [];
          reader.map(count, entries);
          const kept = entries.filter(({ key }) => key !== "sig").map(({ from, to }) => bytes.subarray(from, to));
          return Buffer.concat([Buffer.from([0xa0 | kept.length]), ...kept]);
        }

        // --- repositories: walked in order, so that memory does not grow with the records

        /** One node of a tree, read entry by entry: one of many entries is large enough as bytes. */
        class Node {
          constructor(blocks, cid) {
            this.cid = cid;
            this.left = null;
            const reader = new Reader(found(blocks, cid));
            this.reader = reader;
            this.decoded(() => {
              const [major, count] = reader.head();
              for (let index = 0; index < count && major === 5; index++) this.field(reader.value());
              if (reader.at !== reader.bytes.length || this.from === undefined) throw new Error("it has other fields");
            });
          }

          field(name) {
            if (name === "l") this.left = this.reader.value();
            else if (name === "e") this.from = this.reader.skip();
            else throw new Error("it has other fields");
            if (!isLink(this.left)) throw new Error("its left side is no link");
          }

          decoded(read) {
            try {
              return read();
            } catch (error) {
              throw this.fault(`is no node of a tree: $${error.message}`);
            }
          }

          fault(text) {
            return new Error(`node $${this.cid} $${text}`);
          }

          /** Key, value and right side of each entry. */
          *entries() {
            this.reader.at = this.from;
            const [major, count] = this.reader.head();
            if (major !== 4) throw this.fault("is no node of a tree: it has no list");
            let before = "";
            for (let index = 0; index < count; index++) {
              const { p, k, v, t } = this.decoded(() => this.entry());
              const key = before.slice(0, p) + k.latin1Slice();
              if (key.length > 1024 || !PATH.test(key)) throw this.fault("has a key that is no path");
              const longer = p < before.length && before[p] === key[p];
              if (!Number.isInteger(p) || p < 0 || p > before.length || longer) {
                throw this.fault(`has $${key} with a wrong prefix`);
              }
              yield [key, v, t];
              before = key;
            }
          }

          entry() {
            const entry = this.reader.value();
            if (Buffer.isBuffer(entry.k) && entry.v instanceof Cid && isLink(entry.t)) return entry;
            throw new Error("it has an entry of another form");
          }
        }

        /** Whether it is a CID, or null, which stands for none. */
        function isLink(value) {
          return value === null || value instanceof Cid;
        }

        /** The layer of a tree in which a key belongs: half the number of zero bits at the start of its hash. */
        function layerOf(key) {
          const digest = digestOf(key);
          let zeros = 0;
          while (digest[zeros] === 0) zeros++;
          return zeros * 4 + ((Math.clz32(digest[zeros]) - 24) >> 1);
        }

        /**
         * Path and CID of each record in the tree below the node `top`, in the order of their bytes. Throws at what is no tree.
         * It ends for any blocks: a step down is a layer down, and of a subtree reached twice the keys do not ascend.
         */
        function* records(blocks, top) {
          let last = "";
          function* below(node, layer) {
            let empty = node.left === null;
            if (layer < 0) throw node.fault("is below the lowest layer");
            if (node.left) yield* below(new Node(blocks, node.left), layer - 1);
            for (const [key, value, right] of node.entries()) {
              empty = false;
              if (key <= last) throw node.fault(`has $${key} after $${last}`);
              const own = layerOf(key);
              if (own !== layer) throw node.fault(`has $${key} in layer $${layer}, not $${own}`);
              last = key;
              yield [key, value];
              if (right) yield* below(new Node(blocks, right), layer - 1);
            }
            if (empty) throw node.fault("is empty");
          }
          const root = new Node(blocks, top);
          const [first] = root.entries().next().value ?? [];
          if (first !== undefined) yield* below(root, layerOf(first));
          else if (root.left) throw root.fault("is the root and has no key"); // without both there are no records
        }

        function found(blocks, cid) {
          const content = blocks.get(cid);
          if (!content) throw new Error(`block $${cid} is missing`);
          return content;
        }

        /**
         * What is wrong with a repository: `blocks`, its newest commit `root` (text) at `rev`, and `verifier`, with which the
         * account's key is checked. `index` is what the server's own table says, if there is one: an iterable of `uri`, `cid`
         * (text), `filed` (the path by the other columns) and `stored` (whether the block is there), in the order of the URIs.
         */
        function* problems({ blocks, root, rev, did, verifier, index }) {
          yield* named(damaged(blocks), "blocks do not hash to their names");
          try {
            const content = found(blocks, root);
            const commit = decode(content);
            if (commit.rev !== rev || commit.did !== did) {
              yield `commit $${root} is of $${commit.did} at $${commit.rev}, not of $${did} at $${rev}`;
            }
            const key = { key: verifier, dsaEncoding: "ieee-p1363" };
            if (!crypto.verify("sha256", unsigned(content), key, commit.sig)) {
              yield `commit $${root} is not signed with the account's key`;
            }
            const tree = records(blocks, commit.data);
            yield* named(index ? differences(tree, index, `at://$${did}/`) : lacking(tree, blocks), "records are not whole");
          } catch (error) {
            yield `the blocks do not link up from the root: $${error.message}`;
          }
        }

        /** The first of them, and how many more there are. */
        function* named(faults, what) {
          let count = 0;
          try {
            for (const fault of faults) if (++count <= NAMED) yield fault;
          } finally {
            if (count > NAMED) yield `$${count - NAMED} more $${what}`;
          }
        }

        function* damaged(blocks) {
          for (const [cid, content] of blocks) {
            const name = cid instanceof Cid ? cid : Cid.from(String(cid));
            if (!name?.names(digestOf(content))) yield `block $${cid} does not hash to its name`;
          }
        }

        function* lacking(tree, blocks) {
          for (const [path, cid] of tree) if (!blocks.has(cid)) yield `record $${path} has no block $${cid}`;
        }

        /** Both are in the order of their URIs: neither is held as a whole. */
        function* differences(tree, index, prefix) {
          const rows = index[Symbol.iterator]();
          const next = () => rows.next().value;
          const surplus = ({ uri, cid }) => {
            const path = uri.startsWith(prefix) ? uri.slice(prefix.length) : uri;
            return `record $${path} is undefined in the repository and $${cid} in the index`;
          };
          try {
            let row = next();
            for (const [path, value] of tree) {
              const uri = prefix + path;
              for (; row && row.uri < uri; row = next()) yield surplus(row);
              const cid = String(value);
              const same = row?.uri === uri ? row : undefined;
              if (same?.cid !== cid) yield `record $${path} is $${cid} in the repository and $${same?.cid} in the index`;
              else if (!same.stored) yield `record $${path} has no block $${cid}`;
              if (same && same.filed !== path) yield `record $${path} is listed as $${same.filed} in the index`;
              if (same) row = next();
            }
            for (; row; row = next()) yield surplus(row);
          } finally {
            rows.return?.(); // a statement that is not at its end keeps its database open
          }
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
        const path = require("node:path");

        const PORT = 3000;
        const START = 120000; // ms; a server that has to bring large databases up to its version
        const STOP = 30000; // ms
        const entry = process.env.TRIAL_ENTRY ?? "index.js"; // the image's own

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

      template {
        destination = "local/blocks.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // Blocks as the AT Protocol has them, read without the server's libraries: content identifiers and DAG-CBOR.
        //
        // Owns: the two formats, and whether a block is what its name says. What blocks make up together is repository.cjs's.
        "use strict";

        const crypto = require("node:crypto");

        const ALPHABET32 = Buffer.from("abcdefghijklmnopqrstuvwxyz234567");
        const DIGITS = new Int8Array(128).fill(-1);
        ALPHABET32.forEach((code, digit) => (DIGITS[code] = digit));

        const digestOf = crypto.hash // of newer Nodes, and twice as fast
          ? (content) => crypto.hash("sha256", content, "buffer")
          : (content) => crypto.createHash("sha256").update(content).digest();

        /** Whether `cid` (text) names what has this SHA-256. */
        function isDigestOf(cid, digest) {
          return Cid.from(cid)?.names(digest) ?? false;
        }

        /** A content identifier; its text is base32 of version 1. */
        class Cid {
          constructor(bytes) {
            this.bytes = bytes;
          }

          /** Returns undefined for a text that is no base32, or that another text of the same bytes stands for. */
          static from(text) {
            if (text[0] !== "b") return undefined;
            const bytes = Buffer.alloc(((text.length - 1) * 5) >> 3);
            let [bits, value, at] = [0, 0, 0];
            for (let index = 1; index < text.length; index++) {
              const digit = DIGITS[text.charCodeAt(index)];
              if (!(digit >= 0)) return undefined;
              value = (value << 5) | digit;
              bits += 5;
              if (bits < 8) continue;
              bits -= 8;
              bytes[at++] = value >> bits;
              value &= 255 >> (8 - bits);
            }
            return bits < 5 && value === 0 ? new Cid(bytes) : undefined;
          }

          toString() {
            const { bytes } = this;
            const text = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
            let [bits, value, at] = [0, 0, 0];
            for (let index = 0; index < bytes.length; index++) {
              value = ((value & 31) << 8) | bytes[index]; // what is left is less than one letter
              for (bits += 8; bits >= 5; bits -= 5) text[at++] = ALPHABET32[(value >> (bits - 5)) & 31];
            }
            if (bits > 0) text[at] = ALPHABET32[(value << (5 - bits)) & 31];
            return `b$${text.latin1Slice()}`;
          }

          /** Whether it names what has this SHA-256: version 1, any codec. */
          names(digest) {
            const { bytes } = this;
            const hash = bytes.length - 34;
            if (hash < 2 || bytes[0] !== 1 || bytes[hash] !== 0x12 || bytes[hash + 1] !== 0x20) return false;
            for (let at = 1; at < hash; at++) if (bytes[at] > 127 !== at < hash - 1) return false; // one number
            return bytes.compare(digest, 0, 32, hash + 2) === 0;
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
                return this.list(count);
              case 5:
                return this.map(count);
              case 6:
                return this.link(count);
              default:
                if (count === 27) return rest.readDoubleBE();
                if (count < 20 || count > 22) throw new Error("it has an unknown simple value");
                return [false, true, null][count - 20];
            }
          }

          /** What follows, unread. Returns where it began. */
          skip() {
            const from = this.at;
            for (let left = 1; left > 0; left--) {
              const [major, count] = this.head();
              if (major === 2 || major === 3) this.take(count);
              else if (major === 6) left += 1;
              else if (major === 4 || major === 5) left += (major - 3) * count;
            }
            return from;
          }

          /** Not allocated by the count, which may be anything. */
          list(count) {
            const values = [];
            while (values.length < count) values.push(this.value());
            return values;
          }

          link(tag) {
            const bytes = tag === 42 && this.value();
            if (!Buffer.isBuffer(bytes) || bytes[0] !== 0) throw new Error("it has a tag that is no link");
            return new Cid(bytes.subarray(1)); // a zero comes first
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

        module.exports = { Cid, Reader, decode, decodeAll, digestOf, isDigestOf };
        EOT
      }

      template {
        destination = "local/car.cjs"
        change_mode = "noop"
        data        = <<-EOT
        // An exported repository, as the server serves it (https://ipld.io/specs/transport/car/carv1/): a file of blocks.
        //
        // Blocks come in any order, so they are found by a table. What they make up is repository.cjs's.
        "use strict";

        const fs = require("node:fs");
        const { Cid, decode } = require("./blocks.cjs");

        const HEAD = 512; // bytes; the length and the CID of a block, and most blocks as a whole
        const WINDOW = 1024 * 1024; // bytes of the file that are in memory at once, unless a block is larger

        /**
         * An exported repository in the file `name`: its root, and its blocks, which are not in memory. `close` it.
         */
        function openCar(name) {
          const blocks = new Car(name);
          return { root: blocks.root, blocks, close: () => blocks.close() };
        }

        class Car {
          constructor(name) {
            this.handle = fs.openSync(name);
            try {
              this.size = fs.fstatSync(this.handle).size;
              const [count, start] = number(this.read(0, HEAD), 0);
              this.first = start + count;
              this.root = String(decode(this.read(start, count, true)).roots[0]);
              let blocks = 0;
              for (const _ of this.sections()) blocks++; // so that the table has its size from the first
              this.places = new Places(blocks, this.size);
              for (const { at, cid } of this.sections()) this.places.add(cid.bytes, at);
            } catch (error) {
              this.close();
              throw error;
            }
          }

          close() {
            fs.closeSync(this.handle);
          }

          /** Bytes at a place; as many as there are, unless `all` are needed. */
          read(at, count, all = false, buffer = null) {
            const there = Math.min(count, this.size - at);
            if (all && there < count) throw new Error("it ends too early");
            const into = buffer && there <= buffer.length ? buffer : Buffer.allocUnsafe(there);
            const got = fs.readSync(this.handle, into, 0, there, at);
            if (got !== there) throw new Error("it ends too early");
            return into.subarray(0, there);
          }

          section(at, read) {
            const [length, start] = number(read(at, HEAD), 0);
            const end = start + length;
            if (at + end > this.size) throw new Error("it ends too early");
            const bytes = read(at, end);
            const from = endOfCid(bytes, start);
            if (from > end) throw new Error("it has a CID that is longer than its block");
            return { at, cid: new Cid(bytes.subarray(start, from)), content: bytes.subarray(from, end), next: at + end };
          }

          /** Every block, in one pass. What is given is valid until the next one. */
          *sections() {
            const buffer = Buffer.allocUnsafe(WINDOW);
            let [window, start] = [Buffer.alloc(0), 0];
            const read = (at, count) => {
              if (at + count > start + window.length) {
                window = this.read(at, Math.max(count, WINDOW), false, buffer);
                start = at;
              }
              return window.subarray(at - start, at - start + count);
            };
            for (let at = this.first; at < this.size; ) {
              const section = this.section(at, read);
              yield section;
              at = section.next;
            }
          }

          *[Symbol.iterator]() {
            for (const { cid, content } of this.sections()) yield [cid, content];
          }

          get(cid) {
            const { bytes } = (typeof cid === "string" ? Cid.from(cid) : cid) ?? {};
            for (const at of bytes ? this.places.of(bytes) : []) {
              const section = this.section(at, (place, count) => this.read(place, count));
              if (section.cid.bytes.equals(bytes)) return section.content;
            }
            return undefined;
          }

          has(cid) {
            return this.get(cid) !== undefined;
          }
        }

        /**
         * Offsets by the end of a CID, in a table with open addressing for `count` of them in a file of `size` bytes. It takes
         * 12 to 24 bytes a block, where a map takes some 200.
         */
        class Places {
          constructor(count, size) {
            const slots = 2 ** Math.ceil(Math.log2(count * 1.5 + 2));
            this.last = slots - 1;
            this.hashes = new Uint32Array(slots);
            this.offsets = size < 2 ** 32 ? new Uint32Array(slots) : new Float64Array(slots);
          }

          add(bytes, offset) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            let slot = hash & this.last;
            while (this.offsets[slot] > 0) slot = (slot + 1) & this.last;
            this.hashes[slot] = hash;
            this.offsets[slot] = offset;
          }

          of(bytes) {
            const hash = bytes.readUInt32LE(bytes.length - 4);
            const offsets = [];
            for (let slot = hash & this.last; this.offsets[slot] > 0; slot = (slot + 1) & this.last) {
              if (this.hashes[slot] === hash) offsets.push(this.offsets[slot]);
            }
            return offsets;
          }
        }

        /** A number of variable length, and where it ends. */
        function number(bytes, at) {
          let value = 0;
          for (let index = at, unit = 1; index < at + 10 && index < bytes.length; index++, unit *= 128) {
            value += (bytes[index] & 127) * unit;
            if (bytes[index] < 128) return [value, index + 1];
          }
          throw new Error("it has a length without an end");
        }

        function endOfCid(bytes, at) {
          if (bytes[at] === 0x12 && bytes[at + 1] === 0x20) return at + 34; // version 0
          let [count, end] = [0, at];
          for (let field = 0; field < 4; field++) [count, end] = number(bytes, end); // version, codec, hash, its length
          return end + count;
        }

        module.exports = { openCar };
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
