import { execFileSync } from "node:child_process";
import { appendFileSync, mkdirSync, readdirSync, readlinkSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gaussianTensor, writeDonor } from "../donors.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const disk = join(folder, "disk");
mkdirSync(disk);

function mount(size: string, remount = false): void {
  const options = `size=${size}${remount ? ",remount" : ""}`;
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", disk], { stdio: "ignore" });
}
/** What is left to a run that needs eight times 3 MiB. */
const ROOM_BYTES = 14 << 20;
let mounted = false;
try {
  mount("48m");
  mounted = true;
} catch {
  console.warn("mounting is not allowed here: the tests on a small disk are skipped");
}
afterAll(() => {
  if (mounted) execFileSync("umount", ["--lazy", disk]);
});

/** Where an open file lies; nothing for the one that listed the folder, which is gone. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

describe.skipIf(!mounted)("a small disk", () => {
  const donor = join(folder, "donor");
  const undisturbed = join(folder, "undisturbed");
  beforeAll(async () => {
    writeDonor(
      donor,
      [0, 1, 2, 3, 4, 5, 6, 7].map((shard) => [
        gaussianTensor(`model.layers.${shard}.mlp.up_proj.weight`, "F32", [768, 1024], shard),
      ]),
    );
    await operateOn(donor, undisturbed);
  });

  test("that is too small is refused before the first write, saying how many bytes are missing", async () => {
    mount("30m", true);
    await expect(operateOn(donor, join(disk, "output"))).rejects.toMatchObject({
      code: "USAGE_DISK_SPACE",
      message: expect.stringMatching(/needs \d+ bytes, \d+ are free; \d+ are missing/),
    });
    mount("48m", true);
  });

  test.each([0, 1, 2])(
    "that fills up during the run: missing bytes are said, done tensors kept, --resume ends well (%i workers)",
    async (workers) => {
      const output = join(disk, "output");
      const filler = join(disk, "filler");
      let filled = false;
      const running = operateOn(
        donor,
        output,
        { workers },
        {
          onEvent: ({ event }) => {
            if (event !== "started" || filled) return;
            filled = true;
            // Workers have the next tensors in hand before the first is said to be done: it is filled before any is
            // written, to room for half of them.
            const { bavail, bsize } = statfsSync(disk);
            appendFileSync(filler, Buffer.alloc(bavail * bsize - ROOM_BYTES));
          },
        },
      );
      const error = await running.then(
        () => undefined,
        (refusal: unknown) => refusal as { code: string; message: string; details: { missingBytes: number } },
      );
      expect(error?.code).toBe("IO_DISK_FULL");
      expect(error?.message).toMatch(
        /output\.partial.*the disk is full \(ENOSPC\); about \d+ more bytes are needed; free them, then run again with --resume \([1-7] of 8 tensors are done\)/,
      );
      console.log(error?.message);
      // A thread that is ended leaves no file open: its room would not come back with its name.
      expect(readdirSync("/proc/self/fd").filter((fd) => linkOf(`/proc/self/fd/${fd}`).startsWith(disk))).toEqual([]);
      // As many bytes as it said, and the plan's own margin, are enough.
      const missing = error!.details.missingBytes;
      mount(`${48 * 2 ** 20 + missing + (17 << 20)}`, true);
      const { state } = await operateOn(donor, output, { workers }, { resume: true });
      expect(state).toBe("finished");
      expect(filesOf(output)).toEqual(filesOf(undisturbed));
      rmSync(output, { recursive: true });
      rmSync(filler);
      mount("48m", true);
    },
  );
});
