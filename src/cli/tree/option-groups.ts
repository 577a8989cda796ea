import type { Command } from "commander";

/**
 * The headings under which options stand in the help, by their flags: a command that takes one of these, an old one or
 * a new one, gets it under its heading without more ado. What is in no group stands under "Options:".
 */
interface OptionGroup {
  readonly heading: string;
  readonly flags: readonly string[];
  /** Shown in the short help, too. */
  readonly isShort: boolean;
  /** Only in these commands; everywhere where absent. */
  readonly commands?: readonly string[];
}

const FLOW_COMMANDS = ["surgery", "plan", "prepare"];

const OPTION_GROUPS: readonly OptionGroup[] = [
  {
    heading: "Activation flow (v2), more:",
    commands: FLOW_COMMANDS,
    isShort: false,
    flags: [
      ...["--samples", "--window", "--seed", "--allocation", "--gram", "--memory", "--no-heal"],
      ...["--protocol", "--bos", "--no-bos", "--rows", "--separator", "--min-tokens", "--device", "--threads"],
    ],
  },
  {
    heading: "Mathematics of the flow:",
    isShort: false,
    flags: ["--block-size", "--n-iter", "--beta", "--survival"],
  },
  {
    heading: "How the text is read:",
    isShort: false,
    flags: [
      ...["--protocol", "--window", "--stride", "--bos", "--no-bos", "--newlines", "--rows", "--separator"],
      ...["--min-tokens", "--skip"],
    ],
  },
  {
    heading: "Machine:",
    isShort: false,
    flags: ["--device", "--threads", "--memory", "--workers", "--batch-tokens"],
  },
  { heading: "What is printed:", isShort: true, flags: ["--json", "--events", "--quiet", "--help"] },
];

const DEFAULT_HEADING = "Options:";
const REQUIRED_HEADING = "Required:";

/** Headings whose options wait for `--help --all`. */
export const LONG_HEADINGS: ReadonlySet<string> = new Set(
  OPTION_GROUPS.filter(({ isShort }) => !isShort).map(({ heading }) => heading),
);

/** Put every option of a command under its heading, required ones first. */
export function groupOptions(command: Command): void {
  const headingOf = (flag: string | undefined): string | undefined =>
    OPTION_GROUPS.find(
      ({ flags, commands }) =>
        flags.includes(flag ?? "") && (commands === undefined || commands.includes(command.name())),
    )?.heading;
  for (const option of command.options) {
    const heading = option.mandatory ? REQUIRED_HEADING : headingOf(option.long);
    // A command may have said a heading of its own.
    option.helpGroupHeading ??= heading ?? DEFAULT_HEADING;
  }
  const rank = ({ mandatory, helpGroupHeading = DEFAULT_HEADING }: (typeof command.options)[number]): number => {
    if (mandatory) return 0;
    if (helpGroupHeading === DEFAULT_HEADING) return 1;
    return 2 + OPTION_GROUPS.findIndex(({ heading }) => heading === helpGroupHeading);
  };
  (command.options as (typeof command.options)[number][]).sort((a, b) => rank(a) - rank(b));
}

/** Commands by what one wants to do; a command in no group comes under the last heading. */
export const COMMAND_GROUPS: readonly { readonly heading: string; readonly commands: readonly string[] }[] = [
  { heading: "Start here:", commands: ["operate", "doctor"] },
  { heading: "Operate:", commands: ["plan", "surgery", "calibrate", "compare", "run"] },
  { heading: "Prove and measure:", commands: ["verify", "eval", "gate", "diff", "report", "sign"] },
  { heading: "Try it:", commands: ["generate", "chat"] },
  { heading: "In use:", commands: ["farm"] },
  { heading: "Other formats:", commands: ["export", "import", "pack", "unpack"] },
  { heading: "Models:", commands: ["fetch", "push", "synth"] },
  { heading: "Many machines:", commands: ["parts"] },
];
export const OTHER_COMMANDS = "More:";

export function headingOfCommand(name: string): string {
  return COMMAND_GROUPS.find(({ commands }) => commands.includes(name))?.heading ?? OTHER_COMMANDS;
}
