// Sends an exact number of requests over kept connections, for what is counted per request.

import { connect } from "node:net";

/** Sends `count` GET requests for `url` with further `headers` over `connections` connections, each of which waits for its answers. */
export async function send({ url, headers = {} }, count, connections = 10) {
  const { hostname, port, host, pathname } = new URL(url);
  const lines = Object.entries({ Host: host, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  const request = `GET ${pathname} HTTP/1.1\r\n${lines.join("")}\r\n`;
  let left = count;
  const one = () =>
    new Promise((resolve, reject) => {
      const socket = connect(Number(port), hostname);
      let held = "";
      const next = () => {
        if (left === 0) return resolve(socket.end());
        left -= 1;
        socket.write(request);
      };
      socket.setNoDelay(true);
      socket.setEncoding("latin1");
      socket.once("connect", next);
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
  await Promise.all(Array.from({ length: connections }, one));
}
