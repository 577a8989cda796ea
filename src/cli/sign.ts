import { readFile, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { ioError } from "../checkpoint/file-layer.js";
import { jsonLine, PhysariumError, printable } from "../errors.js";
import { isPackedFolder } from "../pack/manifest.js";
import { generateKey, keyId, parsePrivateKey, parsePublicKey, signOutput } from "../record/signature.js";
import { stopSignal } from "./stop-signal.js";

interface Flags {
  key?: string;
  generateKey?: string;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium sign <output>` */
export function registerSign(program: Command): void {
  program
    .command("sign")
    .description("sign an output with an Ed25519 key, for verify --public-key")
    .argument("[output]", "folder that surgery wrote")
    .option("--key <file>", "your private key (PEM)")
    .option("--generate-key <file>", "make a pair instead: <file>, which stays with you, and <file>.pub to hand out")
    .option("--json", "the result as one JSON object")
    .addHelpText(
      "after",
      `
The signature stands in physarium/ledger.sig.json, over the SHA-256 of every shard, every side file and the ledger.
Sign what you have verified; nothing is sent anywhere.

Examples:
  physarium sign --generate-key key.pem                      (as does: openssl genpkey -algorithm ed25519 -out key.pem)
  physarium sign ./operated --key key.pem
  physarium verify ./operated --public-key key.pem.pub`,
    )
    .action(async (output: string | undefined, flags: Flags) => {
      if (flags.generateKey !== undefined && output === undefined && flags.key === undefined) {
        process.stdout.write(await makeKey(flags.generateKey, flags.json ?? false));
        return;
      }
      if (output === undefined || flags.key === undefined || flags.generateKey !== undefined)
        throw new PhysariumError(
          "USAGE_ARGUMENT",
          "expected an output and --key, or --generate-key alone; see physarium sign --help",
        );
      const key = parsePrivateKey(await readKey(flags.key), flags.key);
      if (await isPackedFolder(output))
        throw new PhysariumError(
          "USAGE_PACKED",
          `${output}: this is a packed model; sign the output before it is packed, the signature goes along`,
        );
      const signed = await signOutput(resolve(output), key, { signal: stopSignal() });
      if (flags.quiet && !flags.json) return;
      process.stdout.write(
        flags.json
          ? jsonLine(signed)
          : `${printable(signed.path)}: ${signed.files} files signed by key ${signed.key_id}\n`,
      );
    });
}

/** A pair in two files; neither is ever overwritten, and the private one is for its owner's eyes. */
async function makeKey(path: string, asJson: boolean): Promise<string> {
  const { privateKey, publicKey } = generateKey();
  const publicPath = `${path}.pub`;
  for (const [to, text, mode] of [
    [publicPath, publicKey, 0o644],
    [path, privateKey, 0o600],
  ] as const) {
    await writeFile(to, text, { flag: "wx", mode }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "EEXIST")
        throw new PhysariumError(
          "USAGE_OUTPUT_EXISTS",
          `${to}: a file stands there; keys are never overwritten, choose another name`,
        );
      throw ioError("writing", to, error);
    });
  }
  const key_id = keyId(parsePublicKey(publicKey, publicPath));
  return asJson
    ? jsonLine({ key_id, private_key: path, public_key: publicPath })
    : `${printable(path)}: your private key ${key_id}, keep it to yourself\n${printable(publicPath)}: hand this one ` +
        "out\n";
}

/** The bytes of a key file. Throws `USAGE_KEY` for what is none by its size, `IO_*`. */
export async function readKey(path: string): Promise<Buffer> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw ioError("reading the key", path, error);
  });
  if (bytes.byteLength <= 65_536) return bytes;
  throw new PhysariumError("USAGE_KEY", `${path}: a file of ${bytes.byteLength} bytes is no key`);
}
