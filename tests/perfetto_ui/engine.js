// Perfetto's trace_processor as its UI runs it, for a test on the other end of a pipe.
//
//     node engine.js FOLDER      FOLDER has engine_bundle.js and trace_processor*.wasm
//
// stdin and stdout carry frames: four bytes of length (little-endian), then bytes of a
// TraceProcessorRpcStream. Each frame is answered by one frame.
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const folder = process.argv[2];

// The bundle wants to be a web worker; what it reads is all in `folder`.
class XMLHttpRequest {
  open(method, url) {
    this.url = url;
  }
  send() {
    const data = fs.readFileSync(path.join(folder, path.basename(this.url)));
    this.status = 200;
    this.response = new context.Uint8Array(data).buffer;
  }
}

const context = vm.createContext({
  console: { log: console.error, warn: console.error, error: console.error },
  importScripts() {},
  location: { href: "engine_bundle.js" },
  performance,
  setTimeout,
  TextDecoder,
  TextEncoder,
  URL,
  WorkerGlobalScope: class {},
  XMLHttpRequest,
});
vm.runInContext("self = globalThis; Uint8Array = globalThis.Uint8Array;", context);
vm.runInContext(fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8"), context);

let replies = [];
const port = {
  postMessage(data) {
    replies.push(Buffer.from(data));
  },
};
context.self.onmessage({ data: port });

function read(size) {
  const data = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const got = fs.readSync(0, data, at, size - at);
    if (got === 0) process.exit(0);
    at += got;
  }
  return data;
}

function write(data) {
  for (let at = 0; at < data.length; ) at += fs.writeSync(1, data, at);
}

setTimeout(() => {
  for (;;) {
    const data = read(read(4).readUInt32LE());
    replies = [];
    port.onmessage({ data: new context.Uint8Array(data) });
    const reply = Buffer.concat(replies);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(reply.length);
    write(size);
    write(reply);
  }
}, 50);
