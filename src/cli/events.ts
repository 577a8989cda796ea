import { jsonLine } from "../errors.js";

/**
 * `--events`: what a command does, as JSON lines on stderr. Every line has `v` (the version of this form), `type`,
 * `time` (ISO 8601, UTC) and `command`; schemas/events.schema.json has the members of each type. New types and members
 * may come without a new version; none goes away or changes its meaning.
 */
export const EVENTS_VERSION = 1;

let isOn = false;
let commandName = "";

/** Called once, before the command works. */
export function tellEvents(command: string): void {
  isOn = true;
  commandName = command;
}

export function tellsEvents(): boolean {
  return isOn;
}

/** Write one line, where `--events` was given. */
export function emitEvent(type: string, members: Readonly<Record<string, unknown>> = {}): void {
  if (!isOn) return;
  const time = new Date().toISOString();
  process.stderr.write(jsonLine({ v: EVENTS_VERSION, type, time, command: commandName, ...members }));
}
