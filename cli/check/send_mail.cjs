// Sends a test message to the address in the argument, with the server's own mail settings and its own mail library.
// Without an argument it only connects and logs in. Prints the relay's answer as one line of JSON. The password stays in
// this process: its environment has the URL.
const { createRequire } = require("node:module");
const path = require("node:path");

// The server's own nodemailer, found from the server's package: pnpm, which builds the image, links it nowhere else.
const app = createRequire(path.join(process.cwd(), "package.json"));
const nodemailer = createRequire(app.resolve("@atproto/pds/package.json"))("nodemailer");

const { PDS_EMAIL_SMTP_URL: url, PDS_EMAIL_FROM_ADDRESS: from, PDS_HOSTNAME: hostname } = process.env;
const to = process.argv[1];
const secret = decodeURIComponent(new URL(url).password);

/** A text without the password, which a relay might repeat. */
const safe = (text) => (secret ? String(text ?? "").split(secret).join("…") : String(text ?? ""));

/** Milliseconds; 28 s together, because `./pds` waits 30 s for output. */
const limits = { dnsTimeout: 4_000, connectionTimeout: 8_000, greetingTimeout: 8_000, socketTimeout: 8_000 };

const transport = nodemailer.createTransport({ url, ...limits });
const message = {
  from,
  to,
  subject: `Test message of ${hostname}`,
  text: `This is a test of the mail relay of ${hostname}. Nothing is to be done.\n`,
};

(to ? transport.sendMail(message) : transport.verify())
  .then(
    (sent) => ({ sent: true, response: safe(sent.response) }),
    (error) => ({
      sent: false,
      response: safe(error.response || error.message),
      code: error.code ?? "",
      command: error.command ?? "",
    }),
  )
  .then((result) => console.log(JSON.stringify(result)));
