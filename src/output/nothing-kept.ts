import { isPhysariumError, PhysariumError } from "../errors.js";

/** What stopped a run that cannot resume, with what is left of it: nothing. Other errors come back as they are. */
export function nothingKept(error: unknown, output: string): unknown {
  if (!isPhysariumError(error, "STOPPED")) return error;
  return new PhysariumError("STOPPED", `${output}: stopped; nothing of it was kept`, { output }, error);
}
