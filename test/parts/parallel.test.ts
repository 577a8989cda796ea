import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { finishParts } from "../../dist/parts/finish.js";
import { readDocuments } from "../../dist/record/open-record.js";
import { MAIN } from "../physarium.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { prepare, recordsOf, writeMixedDonor } from "./parts.js";

const hasParallel = spawnSync("parallel", ["--version"], { encoding: "utf8" }).stdout?.startsWith("GNU parallel");
if (!hasParallel) console.warn("no GNU parallel here, its test is skipped");

test.skipIf(!hasParallel)(
  "GNU parallel over two login names runs the parts, some twice; the output is one machine's",
  async () => {
    const folder = temporaryFolder();
    const [donor, one, output] = [join(folder, "donor"), join(folder, "one"), join(folder, "output")];
    writeMixedDonor(donor);
    await operateOn(donor, one, { workers: 0 });
    const { plan } = await prepare(donor, output, 6);
    // What ssh would do on the other machine, on this one: parallel hands it the host and the command.
    const ssh = join(folder, "ssh");
    writeFileSync(ssh, '#!/bin/bash\nshift\n[ "$1" = -- ] && shift\nexec bash -c "$*"\n', { mode: 0o755 });
    const numbers = [...plan.parts.map(({ part }) => part), 0, 3];
    const { status, stdout, stderr } = spawnSync(
      "parallel",
      [
        ...["--ssh", ssh, "-S", "2/node-a,2/node-b", "--retries", "3", "-j", "2"],
        ...[`${process.execPath} ${MAIN} parts run ${output} --workers 0 --part {}`],
      ],
      {
        input: `${numbers.join("\n")}\n`,
        encoding: "utf8",
        // Without a SHELL that is there (a bare CI has none) this parallel runs nothing and ends with 0.
        env: { ...process.env, SHELL: "/bin/bash", HOME: folder, PARALLEL_HOME: folder },
      },
    );
    expect(status, stderr).toBe(0);
    expect(stdout.match(/^part \d+: done/gm) ?? [], stderr).toHaveLength(numbers.length);
    await finishParts(output, { workers: 0 });
    expect(filesOf(output)).toEqual(filesOf(one));
    expect(recordsOf(output).sort()).toEqual(recordsOf(one).sort());
    expect((await readDocuments(output)).parts?.part_count).toBe(plan.part_count);
  },
);
