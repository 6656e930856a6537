// An app of another origin than the PDS, as a member uses it: sign-in by OAuth (PAR, PKCE, DPoP) or by password, then
// the upload of a picture. https://atproto.com/specs/oauth has the steps. All requests are the browser's own `fetch`.
const pds = "https://PDS_HOSTNAME";
const clientId = `${location.origin}/client-metadata.json`;
const redirectUri = `${location.origin}/app.html`;
const status = document.querySelector("[role=status]");
let session; // send(method, path, init) sends a request as the account

const base64url = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const json = (value) => base64url(new TextEncoder().encode(JSON.stringify(value)));
const sha256 = async (text) => base64url(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const curve = { name: "ECDSA", namedCurve: "P-256" };

async function proof(key, method, url, nonce, token) {
  const { kty, crv, x, y } = key;
  const signer = await crypto.subtle.importKey("jwk", key, curve, false, ["sign"]);
  const claims = { jti: random(), htm: method, htu: url.split("?")[0], iat: Math.floor(Date.now() / 1000) };
  if (nonce) claims.nonce = nonce;
  if (token) claims.ath = await sha256(token);
  const text = `${json({ typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } })}.${json(claims)}`;
  const bytes = new TextEncoder().encode(text);
  const signature = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, signer, bytes);
  return `${text}.${base64url(signature)}`;
}

// The server names the nonce in a header of its refusal; a page reads that header only if CORS exposes it.
async function withProof(key, method, url, init, token) {
  let answer;
  for (let nonce, tries = 0; tries < 2; tries += 1) {
    const headers = { ...init.headers, DPoP: await proof(key, method, url, nonce, token) };
    if (token) headers.Authorization = `DPoP ${token}`;
    answer = await fetch(url, { ...init, method, headers });
    const given = answer.headers.get("DPoP-Nonce");
    if (answer.ok || !given || given === nonce) break;
    nonce = given;
  }
  return answer;
}

async function metadata() {
  const resource = await (await fetch(`${pds}/.well-known/oauth-protected-resource`)).json();
  const issuer = resource.authorization_servers[0];
  return (await fetch(`${issuer}/.well-known/oauth-authorization-server`)).json();
}

async function signIn() {
  const server = await metadata();
  const pair = await crypto.subtle.generateKey(curve, true, ["sign"]);
  const key = await crypto.subtle.exportKey("jwk", pair.privateKey);
  const verifier = random();
  const state = random();
  const request = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    response_type: "code",
    scope: "atproto transition:generic",
    code_challenge: await sha256(verifier),
    code_challenge_method: "S256",
    state,
  });
  const answer = await withProof(key, "POST", server.pushed_authorization_request_endpoint, { body: request });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  const { request_uri } = await answer.json();
  sessionStorage.setItem(state, JSON.stringify({ key, verifier }));
  location.href = `${server.authorization_endpoint}?${new URLSearchParams({ client_id: clientId, request_uri })}`;
}

async function finish(returned) {
  if (returned.has("error")) throw new Error(`${returned.get("error")}: ${returned.get("error_description")}`);
  const { key, verifier } = JSON.parse(sessionStorage.getItem(returned.get("state")));
  const server = await metadata();
  if (returned.get("iss") !== server.issuer) throw new Error(`the answer is of ${returned.get("iss")}`);
  const body = new URLSearchParams({
    client_id: clientId,
    redirect_uri: redirectUri,
    grant_type: "authorization_code",
    code: returned.get("code"),
    code_verifier: verifier,
  });
  const answer = await withProof(key, "POST", server.token_endpoint, { body });
  const token = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${JSON.stringify(token)}`);
  const send = (method, path, init) => withProof(key, method, `${pds}${path}`, init, token.access_token);
  begin(token.sub, send);
}

async function signInWithPassword(form) {
  const body = JSON.stringify(Object.fromEntries(new FormData(form)));
  const headers = { "Content-Type": "application/json" };
  const url = `${pds}/xrpc/com.atproto.server.createSession`;
  const answer = await fetch(url, { method: "POST", headers, body });
  const account = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${account.error}`);
  const send = (method, path, init) =>
    fetch(`${pds}${path}`, { ...init, method, headers: { ...init.headers, Authorization: `Bearer ${account.accessJwt}` } });
  begin(account.did, send);
}

function begin(did, send) {
  session = { did, send };
  status.textContent = `Signed in as ${did}`;
}

async function upload(picture) {
  const headers = { "Content-Type": picture.type };
  const answer = await session.send("POST", "/xrpc/com.atproto.repo.uploadBlob", { headers, body: picture });
  const uploaded = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`the server refused the picture: ${answer.status}`);
  const image = { image: uploaded.blob, alt: picture.name };
  const record = {
    $type: "app.bsky.feed.post",
    text: "a picture",
    createdAt: new Date().toISOString(),
    embed: { $type: "app.bsky.embed.images", images: [image] },
  };
  const body = JSON.stringify({ repo: session.did, collection: record.$type, record });
  const created = await session.send("POST", "/xrpc/com.atproto.repo.createRecord", {
    headers: { "Content-Type": "application/json" },
    body,
  });
  if (!created.ok) throw new Error(`${created.status} ${await created.text()}`);
  const shown = document.querySelector("#shown");
  const query = new URLSearchParams({ did: session.did, cid: uploaded.blob.ref.$link });
  shown.src = `${pds}/xrpc/com.atproto.sync.getBlob?${query}`;
  await shown.decode();
  status.textContent = `Uploaded: ${shown.naturalWidth} pixels wide`;
}

const run = (action) => action.catch((error) => (status.textContent = `Failed: ${error.message}`));
document.querySelector("#sign-in").addEventListener("click", () => run(signIn()));
document.querySelector("#password").addEventListener("submit", (event) => {
  event.preventDefault();
  run(signInWithPassword(event.target));
});
document.querySelector("#picture").addEventListener("change", (event) => run(upload(event.target.files[0])));
const returned = new URLSearchParams(location.search);
if (returned.has("state")) {
  history.replaceState(null, "", location.pathname);
  run(finish(returned));
}
