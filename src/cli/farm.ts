import type { Command } from "commander";
import { registerFarmAdmit } from "./farm/admit.js";
import { registerFarmControl } from "./farm/control.js";
import { registerFarmDoctor } from "./farm/doctor.js";
import { registerFarmFile } from "./farm/edit.js";
import { registerFarmPlan } from "./farm/plan.js";
import { registerFarmServe } from "./farm/serve.js";

/** `physarium farm …`: operated models in use. */
export function registerFarm(program: Command): void {
  const farm = program
    .command("farm")
    .description("operated models in use: each proven, placed where it fits, answering over HTTP")
    .addHelpText(
      "after",
      `
Examples:
  physarium farm init --ram 16GiB
  physarium farm add story --body loam --source ./loam-operated --forms q8_0,q4_0
  physarium farm check && physarium farm plan
  physarium farm admit loam && physarium farm serve`,
    );
  registerFarmFile(farm);
  registerFarmPlan(farm);
  registerFarmAdmit(farm);
  registerFarmServe(farm);
  registerFarmControl(farm);
  registerFarmDoctor(farm);
}
