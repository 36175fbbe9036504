// Starts Cloudflare's emulator with one empty R2 bucket and prints one line:
//
//   ready <endpoint> <access key id> <secret access key>
//
// The endpoint ends in a slash and takes the bucket as its next path element (path style). It runs on
// loopback, on a free port, and ends when its standard input is closed: so it never outlives the test
// that started it, however that ends.

import { randomBytes } from "node:crypto";
import { Miniflare } from "miniflare";

const bucket = process.argv[2] ?? "voicebeat-audio";
const accessKeyId = randomBytes(16).toString("hex");
const secretAccessKey = randomBytes(32).toString("hex");

// An HTTP server of another kind is needed for a worker's sake only; the S3 interface is part of Miniflare.
const server = new Miniflare({
  host: "127.0.0.1",
  port: 0,
  modules: true,
  script: "export default { fetch() { return new Response(null, { status: 404 }); } };",
  r2Buckets: { BUCKET: { id: bucket, s3Credentials: { accessKeyId, secretAccessKey } } },
});

const url = await server.ready;
console.log(`ready ${url.origin}/cdn-cgi/local/r2/s3/ ${accessKeyId} ${secretAccessKey}`);

async function stop() {
  await server.dispose();
  process.exit(0);
}
process.stdin.on("end", stop).on("error", stop).resume();
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
