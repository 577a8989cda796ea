import { cpSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { FolderSource } from "../../dist/checkpoint/folder-source.js";
import type { FileIdentity } from "../../dist/checkpoint/model-source.js";
import { createDigester } from "../../dist/record/digest.js";
import { compareIdentities, identityOf, modifiedTimesOf } from "../../dist/record/donor-identity.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const digester = await createDigester();
const original = writeDonor(join(folder, "donor"), [
  [gaussianTensor("model.layers.0.mlp.up_proj.weight", "BF16", [8, 6], 1)],
  [gaussianTensor("model.layers.1.mlp.up_proj.weight", "BF16", [8, 6], 2)],
]);

function copyOf(name: string): string {
  cpSync(original, join(folder, name), { recursive: true });
  return join(folder, name);
}

/** A source that says what the bytes of its shards are called. */
class Vouching extends FolderSource {
  constructor(
    path: string,
    private readonly content: string,
  ) {
    super(path);
  }
  override async identity(file: string): Promise<FileIdentity> {
    return { ...(await super.identity(file)), content: this.content };
  }
}

async function compare(one: string | FolderSource, other: string | FolderSource) {
  const [was, is] = [await openDonor(one), await openDonor(other)];
  const identities = [await identityOf(was, digester), await identityOf(is, digester)] as const;
  const { differences, touched } = compareIdentities(...identities, modifiedTimesOf(was), modifiedTimesOf(is));
  return { differences, touched: [...touched], equal: JSON.stringify(identities[0]) === JSON.stringify(identities[1]) };
}

test("a copy has the identity of its original; where times differ a look is needed", async () => {
  const copy = copyOf("copy");
  utimesSync(join(copy, SHARDS[0]), 1, 1);
  utimesSync(join(copy, SHARDS[1]), 2, 2);
  expect(await compare(original, copy)).toEqual({ differences: [], touched: SHARDS, equal: true });
  expect(await compare(copy, copy)).toEqual({ differences: [], touched: [], equal: true });
});

test("another header, index, configuration or set of shards is another donor, whatever the times say", async () => {
  const times = (path: string) => {
    for (const file of SHARDS) utimesSync(join(path, file), 1, 1);
  };
  const changes: [string, (path: string) => void, string][] = [
    ["config", (path) => writeFileSync(join(path, "config.json"), "{ }"), "the donor's config.json is another"],
    [
      "index",
      (path) => {
        const index = join(path, "model.safetensors.index.json");
        writeFileSync(index, `${readFileSync(index, "utf8")} `);
      },
      "the donor's model.safetensors.index.json is another",
    ],
    [
      "header",
      (path) => {
        const bytes = readFileSync(join(path, SHARDS[0]), "latin1");
        writeFileSync(join(path, SHARDS[0]), bytes.replace('"pt"', '"tf"'), "latin1");
        times(path);
      },
      `${SHARDS[0]} has another header`,
    ],
  ];
  const before = copyOf("before");
  times(before);
  for (const [name, change, words] of changes) {
    const changed = copyOf(name);
    times(changed);
    change(changed);
    expect((await compare(before, changed)).differences, name).toEqual([words]);
  }
});

test("what a source vouches for on both sides needs no look, and tells weights apart that headers do not", async () => {
  const copy = copyOf("vouched");
  utimesSync(join(copy, SHARDS[0]), 1, 1);
  expect(await compare(new Vouching(original, "etag:a"), new Vouching(copy, "etag:a"))).toMatchObject({
    differences: [],
    touched: [],
  });
  const { differences } = await compare(new Vouching(original, "etag:a"), new Vouching(copy, "etag:b"));
  expect(differences).toEqual(SHARDS.map((file) => `${file} was etag:a and is etag:b`));
  // Known on one side alone it says nothing.
  expect((await compare(original, new Vouching(copy, "etag:b"))).differences).toEqual([]);
});
