import { execFileSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { cpSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { generateKey, parsePrivateKey, signOutput } from "../../dist/record/signature.js";
import { addSections, renderDocuments } from "../../dist/report/documents.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { forge, readLines, writeRecord } from "./forge.js";

const folder = temporaryFolder();
const donor = join(folder, "donor");
const signed = join(folder, "signed");
const output = join(folder, "output");
const { privateKey, publicKey } = generateKey();

beforeAll(async () => {
  writeDonor(donor, [[gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [40, 30], 1)]]);
  await operateOn(donor, signed, { blockSize: 16 }, { render: renderDocuments });
  await signOutput(signed, parsePrivateKey(privateKey, "key"));
});

function fresh(): string {
  rmSync(output, { recursive: true, force: true });
  cpSync(signed, output, { recursive: true });
  return output;
}

const check = async (key: string | Buffer = publicKey) =>
  (await verify(output, { publicKey: key, workers: 0 })).differences.map(
    ({ where, message }) => `${where}: ${message}`,
  );

test("what was signed holds, with its donor and without, and after a section was added to its report", async () => {
  fresh();
  expect(await check()).toEqual([]);
  expect((await verify(output, { donorPath: donor, publicKey, workers: 0 })).differences).toEqual([]);
  await addSections(output, {});
  expect(await check()).toEqual([]);
});

describe("tampering that ledger and digests agree with", () => {
  test("weights, with every record made to fit", async () => {
    await forge(donor, fresh(), {
      claimsHealing: true,
      weights: (_name, weights) => {
        for (let i = 0; i < weights.length; i++) if (weights[i] !== 0) weights[i] ^= 1;
      },
    });
    expect((await verify(output, { workers: 0 })).differences).toEqual([]);
    expect(await check()).toEqual([
      expect.stringMatching(/^model\.safetensors: it is not the file that was signed/),
      expect.stringMatching(/^physarium\/ledger\.jsonl: it is not the file that was signed/),
    ]);
  });

  test("one letter of the ledger; a file that it leaves out; one that it adds", async () => {
    fresh();
    const lines = readLines(output);
    lines[0].donor.name = "another";
    await writeRecord(output, lines);
    expect((await check()).filter((fault) => !fault.includes("surgery.json"))).toEqual([
      expect.stringMatching(/^physarium\/ledger\.jsonl: it is not/),
    ]);
    fresh();
    await writeRecord(
      output,
      readLines(output).filter(({ kind }) => kind !== "side_file"),
    );
    expect(await check()).toContain("config.json: it was signed, and the ledger does not know it");
  });

  test("the signature itself: every byte of it, another's, none", async () => {
    fresh();
    const path = join(output, "physarium/ledger.sig.json");
    const text = readFileSync(path, "utf8");
    const envelope = JSON.parse(text);
    for (const change of [
      { ...envelope, payload: Buffer.from("{}").toString("base64") },
      { ...envelope, payloadType: "text/plain" },
      { ...envelope, signatures: [] },
      { ...envelope, signatures: [{ keyid: "x", sig: "" }] },
      { ...envelope, signatures: [{ keyid: envelope.signatures[0].keyid, sig: Buffer.alloc(64).toString("base64") }] },
      { ...envelope, signatures: 7 },
      null,
    ]) {
      writeFileSync(path, JSON.stringify(change));
      expect(await check()).toEqual([expect.stringMatching(/^physarium\/ledger\.sig\.json: /)]);
    }
    for (let at = 3; at < text.length; at += 97) {
      const bytes = Buffer.from(text);
      bytes[at] ^= 4;
      writeFileSync(path, bytes);
      // What names the key is a hint that nothing depends on, and base64 ends in bits that mean nothing.
      const faults = await check();
      if (!text.slice(at - 40, at + 1).includes("keyid")) expect(faults.length).toBeGreaterThan(0);
    }
    writeFileSync(path, text);
    expect(await check(generateKey().publicKey)).toEqual([expect.stringMatching(/no signature by key [0-9a-f]{16}/)]);
    rmSync(path);
    expect(await check()).toEqual(["physarium/ledger.sig.json: there is no signature"]);
  });
});

describe("on the command line", () => {
  const key = join(folder, "key.pem");

  test("a pair is made once, for its owner's eyes; signs; verifies; another's does not", async () => {
    expect((await physarium(["sign", "--generate-key", key])).status).toBe(0);
    expect(statSync(key).mode & 0o077).toBe(0);
    const again = await physarium(["sign", "--generate-key", key]);
    expect([again.status, again.stderr]).toEqual([2, expect.stringContaining("USAGE_OUTPUT_EXISTS")]);
    const result = await physarium(["sign", fresh(), "--key", key]);
    expect([result.status, result.stdout]).toEqual([0, expect.stringMatching(/files signed by key [0-9a-f]{16}/)]);
    const good = await physarium(["verify", output, "--public-key", `${key}.pub`]);
    expect([good.status, good.stdout]).toEqual([0, expect.stringMatching(/ok {4}signature .*as the owner of key/)]);
    const other = join(folder, "other.pem");
    writeFileSync(other, publicKey);
    const bad = await physarium(["verify", output, "--public-key", other]);
    expect([bad.status, bad.stderr]).toEqual([4, expect.stringContaining("VERIFY_FAILED")]);
  });

  test("keys that are none, outputs that are none, arguments that do not go together", async () => {
    const rsa = join(folder, "rsa.pem");
    writeFileSync(
      rsa,
      generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey.export({ type: "pkcs8", format: "pem" }),
    );
    fresh();
    for (const [args, status, code] of [
      [["sign", output, "--key", rsa], 2, "USAGE_KEY"],
      [["sign", output, "--key", join(output, "config.json")], 2, "USAGE_KEY"],
      [["sign", output, "--key", join(folder, "nowhere")], 5, "IO_NOT_FOUND"],
      [["sign", donor, "--key", key], 4, "VERIFY_OUTPUT"],
      [["sign", output], 2, "USAGE_ARGUMENT"],
      [["sign", output, "--key", key, "--generate-key", join(folder, "third")], 2, "USAGE_ARGUMENT"],
      [["verify", output, "--public-key", join(output, "config.json")], 2, "USAGE_KEY"],
    ] as const) {
      const ended = await physarium(args);
      expect([args, ended.status, ended.stderr]).toEqual([args, status, expect.stringContaining(code)]);
    }
    expect(existsSync(join(folder, "third"))).toBe(false);
  });

  test("openssl makes keys for it, and checks what it signed", async (context) => {
    const pem = join(folder, "openssl.pem");
    try {
      execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", pem], { stdio: "pipe" });
    } catch {
      return context.skip("there is no openssl with Ed25519 here");
    }
    execFileSync("openssl", ["pkey", "-in", pem, "-pubout", "-out", `${pem}.pub`]);
    expect((await physarium(["sign", fresh(), "--key", pem])).status).toBe(0);
    expect((await physarium(["verify", output, "--public-key", `${pem}.pub`])).status).toBe(0);
    const { payloadType, payload, signatures } = JSON.parse(
      readFileSync(join(output, "physarium/ledger.sig.json"), "utf8"),
    );
    const body = Buffer.from(payload, "base64");
    writeFileSync(join(folder, "message"), `DSSEv1 ${payloadType.length} ${payloadType} ${body.length} ${body}`);
    writeFileSync(join(folder, "sig"), Buffer.from(signatures[0].sig, "base64"));
    const args = ["pkeyutl", "-verify", "-pubin", "-inkey", `${pem}.pub`, "-rawin", "-in", join(folder, "message")];
    expect(execFileSync("openssl", [...args, "-sigfile", join(folder, "sig")]).toString()).toContain("Success");
  });
});
