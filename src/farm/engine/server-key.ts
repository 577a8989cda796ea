import { PhysariumError } from "../../errors.js";
import type { EngineChoice } from "../config/organ-farm.js";

/**
 * The key that a llama-server demands, from the environment variable that the farm's file names; nothing where it names
 * none. Its words are shown to nobody: errors name the variable. Throws `USAGE_ENGINE` where the variable is missing,
 * or holds what no header can carry.
 */
export function serverKey(
  { apiKeyEnv }: Extract<EngineChoice, { kind: "llama-server" }>,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): string | undefined {
  if (apiKeyEnv === undefined) return undefined;
  const key = environment[apiKeyEnv] ?? "";
  if (/^[\x21-\x7e]+$/.test(key)) return key;
  const found = key === "" ? "it is not set" : "what it holds is no key: spaces, line ends or letters beyond ASCII";
  throw new PhysariumError(
    "USAGE_ENGINE",
    `engine.api_key_env names the environment variable ${apiKeyEnv}, and ${found}; set it to the key of llama-server`,
    { variable: apiKeyEnv },
  );
}
