import type { Command } from "commander";
import { jsonLine, printable } from "../../errors.js";
import { tierOf } from "../../farm/config/organ-farm.js";
import { budgetOf } from "../../farm/plan/machine.js";
import { StateFolder } from "../../farm/state/state-folder.js";
import { toInteger } from "../arguments.js";
import { endNow, listen as hearSignals } from "../stop-signal.js";
import { addFarmOptions, type FarmFlags, openFarm } from "./options.js";

interface ServeFlags extends FarmFlags {
  host: string;
  port: number;
  apiKey?: string;
  cors?: string;
  allowCommands?: boolean;
  quiet?: boolean;
}

export const DEFAULT_PORT = 8484;
export const KEY_VARIABLE = "PHYSARIUM_FARM_KEY";

/** `physarium farm serve` */
export function registerFarmServe(farm: Command): void {
  addFarmOptions(
    farm
      .command("serve")
      .description("answer over HTTP as OpenAI's clients ask, and show the farm at /")
      .option("--host <address>", "where to listen; other than loopback needs a key", "127.0.0.1")
      .option("--port <n>", "0 takes a free one", toInteger, DEFAULT_PORT)
      .option("--api-key <key>", `what clients must send (default: ${KEY_VARIABLE} of the environment)`)
      .option("--cors <origin>", "a page of this origin may ask from a browser")
      .option("--allow-commands", "verifiers of the farm's file may run programs"),
  )
    .addHelpText(
      "after",
      `
Example:
  physarium farm serve --port 8484
  curl http://127.0.0.1:8484/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "story", "messages": [{"role": "user", "content": "Once upon a time"}]}'`,
    )
    .action(async (flags: ServeFlags) => {
      const opened = await openFarm(flags);
      const state = new StateFolder(opened);
      const { listen, requireKey } = await import("../../farm/http/serve-http.js");
      const { FarmService } = await import("../../farm/serve/farm-service.js");
      const apiKey = flags.apiKey ?? process.env[KEY_VARIABLE];
      const options = { host: flags.host, port: flags.port, apiKey, corsOrigin: flags.cors };
      requireKey(options);
      const budget = await budgetOf(opened, {}, state.path);
      const service = await FarmService.open({
        farm: opened,
        state,
        budget,
        allowCommands: flags.allowCommands ?? false,
      });
      const server = await listen(service, options).catch(async (error) => {
        await service.close();
        throw error;
      });
      const ended = new Promise<void>((resolve) => {
        hearSignals((name, again) => (again ? endNow(name) : resolve()));
      });
      if (flags.json) process.stdout.write(jsonLine({ event: "listening", address: server.address, pid: process.pid }));
      else {
        process.stdout.write(`${server.address}\n`);
        if (!flags.quiet) {
          for (const body of opened.bodies.keys()) {
            const refusal = service.unavailable(body);
            const words = refusal === undefined ? `${body}: wanted in ${tierOf(opened, body)}` : refusal.message;
            process.stderr.write(`${printable(words)}\n`);
          }
        }
      }
      await ended;
      await Promise.all([server.close(), service.close()]);
    });
}
