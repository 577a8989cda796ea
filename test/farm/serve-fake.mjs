// A farm of the fake model, or of its own llama-server, in a process of its own: node serve-fake.mjs <folder>
import { join } from "node:path";
import { readFarm } from "../../dist/farm/config/read-config.js";
import { childEngine } from "../../dist/farm/engine/child-engine.js";
import { listen } from "../../dist/farm/http/serve-http.js";
import { budgetOf } from "../../dist/farm/plan/machine.js";
import { FarmService } from "../../dist/farm/serve/farm-service.js";
import { StateFolder } from "../../dist/farm/state/state-folder.js";

const farm = await readFarm(join(process.argv[2], "organ_farm.json"));
const fake = {
  start: (spec, onStart) => childEngine.start({ ...spec, engine: { kind: "fake", tokenMs: 1 } }, onStart),
};
const engine = farm.engine.kind === "llama-server" ? childEngine : fake;
const state = new StateFolder(farm);
const service = await FarmService.open({ farm, state, budget: await budgetOf(farm), allowCommands: false, engine });
const { address } = await listen(service, { host: "127.0.0.1", port: 0, apiKey: undefined, corsOrigin: undefined });
console.log(address);
