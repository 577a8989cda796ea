import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, it, vi } from "vitest";
import { registerPack } from "../../dist/cli/pack.js";
import { registerUnpack } from "../../dist/cli/unpack.js";
import { digests, scratchFolder } from "./folder.js";

async function run(...args: string[]): Promise<string> {
  const program = new Command().exitOverride();
  registerPack(program);
  registerUnpack(program);
  let text = "";
  const write = vi.spyOn(process.stdout, "write").mockImplementation((chunk) => {
    text += chunk;
    return true;
  });
  try {
    await program.parseAsync(args, { from: "user" });
  } finally {
    write.mockRestore();
  }
  return text;
}

describe("the commands pack and unpack", () => {
  it("say what they made, in words and in JSON", async () => {
    const scratch = await scratchFolder();
    const [packed, back] = [join(scratch, "packed"), join(scratch, "back")];
    expect(await run("pack", "examples/donors/loam", packed, "--workers", "0")).toMatch(
      /: [\d,]+ bytes of [\d,]+ bytes, 66\.\d\d %, entropy bound 6[56]\.\d\d %/,
    );
    const result = JSON.parse(await run("unpack", packed, back, "--json", "--workers", "0"));
    expect(result).toMatchObject({ output: back, resumed_shards: 0, original_bytes: 6960888 });
    expect(await digests(back)).toEqual(await digests("examples/donors/loam"));
  });
});
