import type { Command } from "commander";
import { jsonLine, PhysariumError, printable } from "../../errors.js";
import { budgetOf } from "../../farm/plan/machine.js";
import { StateFolder } from "../../farm/state/state-folder.js";
import { addFarmOptions, type FarmFlags, openFarm } from "./options.js";

/** `physarium farm doctor` */
export function registerFarmDoctor(farm: Command): void {
  addFarmOptions(
    farm
      .command("doctor")
      .description("look at all a farm stands on: engine, budgets, every form's digest, orphans; exit 4"),
  ).action(async (flags: FarmFlags) => {
    const opened = await openFarm(flags);
    const state = new StateFolder(opened);
    const { examineFarm } = await import("../../farm/serve/doctor.js");
    const findings = await examineFarm(opened, state, await budgetOf(opened, {}, state.path));
    if (flags.json) process.stdout.write(jsonLine({ ok: findings.every(({ ok }) => ok), findings }));
    else
      for (const { what, ok, found } of findings)
        process.stdout.write(`${printable(`${ok ? "ok  " : "BAD "} ${what}: ${found}`)}\n`);
    const bad = findings.filter(({ ok }) => !ok);
    if (bad.length === 0) return;
    throw new PhysariumError(
      "VERIFY_FARM",
      `${bad.length} of ${findings.length} findings are bad, first ${bad[0].what}: ${bad[0].found}`,
      {
        findings: bad,
      },
    );
  });
}
