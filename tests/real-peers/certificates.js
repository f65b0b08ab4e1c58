// Certificates for mutual TLS with a provider, made by the command that makes those of a cluster.

import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * Makes an authority in `directory`, a certificate for a server at `address` and one for each of `clients`. What is
 * returned tells by name (`ca`, `server` or a client's) where the files of each are.
 */
export function makeCertificates(directory, address, clients) {
  execFileSync(join(process.env.WARDGATE_BIN_DIR, "wardgate-control-plane"), [
    "certificates", "--out", directory, "--name", address, ...clients.flatMap((client) => ["--data-plane", client]),
  ]);
  return (name) => {
    const file = name === "server" ? "control-plane" : name;
    const [cert, key] = ["pem", "key"].map((kind) => join(directory, `${file}.${kind}`));
    return {
      files: { cert, key },
      pem: () => ({ cert: readFileSync(cert), key: readFileSync(key) }),
      /** Its public key, as a client registers it that signs its certificate itself. */
      jwk: () => {
        const certificate = new X509Certificate(readFileSync(cert));
        return { ...certificate.publicKey.export({ format: "jwk" }), x5c: [certificate.raw.toString("base64")] };
      },
    };
  };
}
