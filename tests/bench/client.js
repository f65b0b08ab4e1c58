// Sends an exact number of requests, for what is counted per request.

import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { connect as connectSecurely } from "node:tls";

/**
 * Sends `count` GET requests for `url` with further `headers` over `connections` connections, each of which waits for its
 * answers. If they are `fresh`, each request has a connection of its own, and a whole handshake.
 */
export async function send(asked, count, connections = 10) {
  if (asked.http2) return sendHttp2(asked, count, connections);
  const { url, headers = {}, fresh = false } = asked;
  const { protocol, hostname, port, host, pathname } = new URL(url);
  const secure = protocol === "https:";
  const ending = fresh ? { Connection: "close" } : {};
  const lines = Object.entries({ Host: host, ...ending, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  const request = `GET ${pathname} HTTP/1.1\r\n${lines.join("")}\r\n`;
  let left = count;
  const one = () =>
    new Promise((resolve, reject) => {
      const open = { host: hostname, port: Number(port), rejectUnauthorized: false };
      const socket = secure ? connectSecurely(open) : connect(open);
      let held = "";
      let begun = false;
      const next = () => {
        if (left === 0 || (fresh && begun)) return resolve(socket.end());
        left -= 1;
        begun = true;
        socket.write(request);
      };
      socket.setNoDelay(true);
      socket.setEncoding("latin1");
      socket.once(secure ? "secureConnect" : "connect", next);
      socket.once("error", reject);
      socket.once("close", () => reject(new Error(`${url}: the connection was closed`)));
      socket.on("data", (text) => {
        held += text;
        const end = held.indexOf("\r\n\r\n");
        if (end < 0) return;
        const length = Number(held.match(/\r\ncontent-length: (\d+)\r\n/i)?.[1]);
        if (held.length < end + 4 + length) return;
        if (!held.startsWith("HTTP/1.1 200 ")) return reject(new Error(`${url}: ${held.slice(0, 200)}`));
        held = held.slice(end + 4 + length);
        next();
      });
    });
  const all = async () => {
    do await one();
    while (fresh && left > 0);
  };
  await Promise.all(Array.from({ length: connections }, all));
}

/** The same by HTTP/2: one request at a time on each connection. */
async function sendHttp2({ url, headers = {} }, count, connections) {
  const { origin, pathname } = new URL(url);
  const fields = { ":path": pathname, ...headers };
  let left = count;
  const one = async () => {
    const session = connectHttp2(origin);
    while (left > 0) {
      left -= 1;
      await new Promise((resolve, reject) => {
        const stream = session.request(fields);
        stream.once("response", (answer) => {
          if (answer[":status"] !== 200) reject(new Error(`${url}: ${answer[":status"]}`));
        });
        stream.once("error", reject);
        stream.once("end", resolve);
        stream.resume();
      });
    }
    session.close();
  };
  await Promise.all(Array.from({ length: connections }, one));
}
