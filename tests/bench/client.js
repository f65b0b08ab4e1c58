// Sends an exact number of requests, for what is counted per request.

import { connect } from "node:net";
import { connect as connectSecurely } from "node:tls";

/**
 * Sends `count` GET requests for `url` with further `headers` over `connections` connections, each of which waits for its
 * answers. If they are `fresh`, each request has a connection of its own, and a whole handshake.
 */
export async function send({ url, headers = {}, fresh = false }, count, connections = 10) {
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
      let asked = false;
      const next = () => {
        if (left === 0 || (fresh && asked)) return resolve(socket.end());
        left -= 1;
        asked = true;
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
