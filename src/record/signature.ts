import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";
import { join } from "node:path";
import * as v from "valibot";
import { type FileLayer, FileSource, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { type Ledger, RECORD_FOLDER } from "./ledger.js";
import { openLedger, RECORD_FILES, recordPath, writeRecord } from "./open-record.js";
import { Count, readJson, Words } from "./read-json.js";

/**
 * `physarium/ledger.sig.json`: who says that this output is theirs. A DSSE envelope
 * (https://github.com/secure-systems-lab/dsse), as in-toto and sigstore use it, with one Ed25519 signature over a
 * statement of every file's SHA-256: the ledger's own digests are XXH128, which finds damage and not forgery, so a
 * signature over the ledger alone would bind no weight.
 *
 * Ed25519 from node:crypto and no sigstore client: no dependency, no network, no account, and a signature that can be
 * checked in ten years with openssl. What it costs: you have to hand out your public key yourself.
 */
export const STATEMENT_TYPE = "application/vnd.physarium.output+json";

const Statement = v.strictObject({
  format: v.literal("physarium output"),
  version: v.literal(1),
  files: v.array(
    v.strictObject({ file: Words, byte_length: Count, sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)) }),
  ),
});
type Statement = v.InferOutput<typeof Statement>;

const Envelope = v.object({
  payloadType: v.literal(STATEMENT_TYPE),
  payload: v.pipe(v.string(), v.base64()),
  signatures: v.pipe(
    v.array(v.object({ keyid: Words, sig: v.pipe(v.string(), v.base64()) })),
    v.minLength(1),
    v.maxLength(64),
  ),
});

/** A PEM pair for `sign` and `verify --public-key`. */
export function generateKey(): { readonly privateKey: string; readonly publicKey: string } {
  return generateKeyPairSync("ed25519", {
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
    publicKeyEncoding: { type: "spki", format: "pem" },
  });
}

/** A private key from PEM. Throws `USAGE_KEY`. */
export function parsePrivateKey(pem: string | Buffer, name: string): KeyObject {
  return parseKey(name, "a private", () => createPrivateKey(pem));
}

/** A public key from PEM; of a private one, its public half. Throws `USAGE_KEY`. */
export function parsePublicKey(pem: string | Buffer, name: string): KeyObject {
  return parseKey(name, "a public", () => createPublicKey(pem));
}

function parseKey(name: string, kind: string, parse: () => KeyObject): KeyObject {
  let found: string;
  try {
    const key = parse();
    if (key.asymmetricKeyType === "ed25519") return key;
    found = `an ${key.asymmetricKeyType} key`;
  } catch (error) {
    found = `none that can be read (${(error as Error).message})`;
  }
  throw new PhysariumError(
    "USAGE_KEY",
    `${name}: expected ${kind} Ed25519 key in PEM without a passphrase, found ${found}; make a pair with physarium ` +
      "sign --generate-key key.pem",
    { name },
  );
}

/** A name for a key: the first 16 hexadecimal digits of its SHA-256. */
export function keyId(key: KeyObject): string {
  const spki = (key.type === "private" ? createPublicKey(key) : key).export({ type: "spki", format: "der" });
  return createHash("sha256").update(spki).digest("hex").slice(0, 16);
}

export interface Signed {
  readonly key_id: string;
  readonly files: number;
  readonly path: string;
}

/**
 * Sign a finished output as it stands: what its files are is not looked into, `verify` does that. Throws
 * `VERIFY_OUTPUT`, `VERIFY_LEDGER` for what is no finished output, `IO_*`.
 */
export async function signOutput(
  outputPath: string,
  key: KeyObject,
  options: { readonly files?: FileLayer; readonly signal?: AbortSignal } = {},
): Promise<Signed> {
  const { files = nodeFiles, signal } = options;
  const ledger = await openLedger(outputPath, files);
  const path = recordPath(outputPath, "signature");
  if (ledger.finished === undefined)
    throw new PhysariumError(
      "VERIFY_LEDGER",
      `${outputPath}: the operation is not finished; only a whole output is signed`,
    );
  const statement: Statement = { format: "physarium output", version: 1, files: [] };
  for (const file of signedFiles(ledger)) statement.files.push(await describe(outputPath, file, files, signal));
  const payload = Buffer.from(JSON.stringify(statement));
  const signatures = [{ keyid: keyId(key), sig: sign(null, encode(payload), key).toString("base64") }];
  const envelope = { payloadType: STATEMENT_TYPE, payload: payload.toString("base64"), signatures };
  await writeRecord(outputPath, { signature: `${JSON.stringify(envelope, null, 1)}\n` }, files);
  return { key_id: keyId(key), files: statement.files.length, path };
}

/** What of an output is not as this key's owner signed it; empty where all of it is. Every signed file is read once. */
export async function checkSignature(
  outputPath: string,
  key: KeyObject,
  ledger: Ledger,
  options: { readonly files?: FileLayer; readonly signal?: AbortSignal | undefined } = {},
): Promise<{ readonly where: string; readonly message: string }[]> {
  const { files = nodeFiles, signal } = options;
  const own = `${RECORD_FOLDER}/${RECORD_FILES.signature}`;
  let statement: Statement;
  try {
    statement = await openStatement(outputPath, key, files);
  } catch (error) {
    if (!isPhysariumError(error)) throw error;
    return [{ where: own, message: error.code === "IO_NOT_FOUND" ? "there is no signature" : error.message }];
  }
  const faults: { where: string; message: string }[] = [];
  const signed = new Map(statement.files.map((file) => [file.file, file]));
  for (const file of signedFiles(ledger)) {
    const expected = signed.get(file);
    signed.delete(file);
    if (expected === undefined) {
      faults.push({ where: file, message: "it was not signed" });
      continue;
    }
    try {
      const { byte_length, sha256 } = await describe(outputPath, file, files, signal);
      if (byte_length !== expected.byte_length || sha256 !== expected.sha256)
        faults.push({ where: file, message: "it is not the file that was signed (length or SHA-256)" });
    } catch (error) {
      if (!isPhysariumError(error) || error.code === "STOPPED") throw error;
      faults.push({ where: file, message: error.message });
    }
  }
  for (const file of signed.keys())
    faults.push({ where: file, message: "it was signed, and the ledger does not know it" });
  return faults;
}

/** The statement, once a signature over its bytes by `key` was found. Throws `VERIFY_SIGNATURE`. */
async function openStatement(outputPath: string, key: KeyObject, files: FileLayer): Promise<Statement> {
  const path = recordPath(outputPath, "signature");
  const refuse = (fault: string) => new PhysariumError("VERIFY_SIGNATURE", `${path}: ${fault}`, { path });
  const envelope = readJson(await readSmallFile(path, files), Envelope, refuse);
  const payload = Buffer.from(envelope.payload, "base64");
  const valid = envelope.signatures.some(({ sig }) => verify(null, encode(payload), key, Buffer.from(sig, "base64")));
  if (!valid) {
    const by = envelope.signatures.map(({ keyid }) => keyid).join(", ");
    throw refuse(`no signature by key ${keyId(key)}; it says it was signed by ${by}`);
  }
  return readJson(payload, Statement, refuse);
}

/**
 * DSSE's pre-authentication encoding: type and length stand in what is signed, so that it cannot be taken for anything
 * else.
 */
function encode(payload: Buffer): Buffer {
  const head = `DSSEv1 ${STATEMENT_TYPE.length} ${STATEMENT_TYPE} ${payload.byteLength} `;
  return Buffer.concat([Buffer.from(head), payload]);
}

/** All that a loader reads, and the ledger; reports may be written again. */
function signedFiles({ shards, sideFiles }: Ledger): string[] {
  return [...[...shards.keys()].sort(), ...[...sideFiles.keys()].sort(), `${RECORD_FOLDER}/${RECORD_FILES.ledger}`];
}

const READ_BYTES = 8 << 20;

async function describe(
  outputPath: string,
  file: string,
  files: FileLayer,
  signal: AbortSignal | undefined,
): Promise<Statement["files"][number]> {
  const source = await FileSource.open(join(outputPath, file), files);
  try {
    const hash = createHash("sha256");
    for (let begin = 0; begin < source.byteLength; begin += READ_BYTES) {
      refuseStopped(signal);
      hash.update(await source.read(begin, Math.min(begin + READ_BYTES, source.byteLength)));
    }
    return { file, byte_length: source.byteLength, sha256: hash.digest("hex") };
  } finally {
    await source.close();
  }
}
