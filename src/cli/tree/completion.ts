import type { Command } from "commander";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

interface Word {
  readonly name: string;
  readonly about: string;
}

interface Completed {
  readonly command: Word;
  readonly options: readonly (Word & { readonly takesValue: boolean; readonly choices: readonly string[] })[];
}

/** What can be typed, from the command tree: nothing is listed by hand. */
function completed(program: Command): Completed[] {
  return program.commands.map((command) => ({
    command: { name: command.name(), about: firstClause(command.description()) },
    options: [
      ...command.options
        .filter(({ hidden, long }) => !hidden && long)
        .map((option) => ({
          name: option.long!,
          about: firstClause(option.description),
          takesValue: option.required || option.optional,
          choices: option.argChoices ?? [],
        })),
      { name: "--help", about: "display help for command", takesValue: false, choices: [] },
    ],
  }));
}

/** Completions show a line beside each word; a colon or a quote would need escapes in three shells. */
function firstClause(text: string): string {
  return text
    .split(/[;:(]/)[0]
    .replace(/['"`$\\[\]]/g, "")
    .trim();
}

/** A completion script for a shell. Where no option fits, files are completed: models are folders. */
export function completionScript(program: Command, shell: Shell): string {
  const all = completed(program);
  if (shell === "bash") return bash(all);
  return shell === "zsh" ? zsh(all) : fish(all);
}

function bash(all: readonly Completed[]): string {
  const names = all.map(({ command }) => command.name).join(" ");
  const cases = all
    .map(({ command, options }) => `    ${command.name}) options="${options.map(({ name }) => name).join(" ")}" ;;`)
    .join("\n");
  const values = all.flatMap(({ command, options }) =>
    options
      .filter(({ choices }) => choices.length > 0)
      .map(({ name, choices }) => `    "${command.name} ${name}") values="${choices.join(" ")}" ;;`),
  );
  return `# bash completion for physarium: source <(physarium completion bash)
_physarium() {
  local word="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" command="\${COMP_WORDS[1]}"
  local options="" values=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${names} help --help --version" -- "$word"))
    return
  fi
  case "$command $before" in
${values.join("\n")}
    *) ;;
  esac
  if [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    return
  fi
  case "$command" in
${cases}
    *) ;;
  esac
  case "$word" in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}
complete -o filenames -F _physarium physarium
`;
}

function zsh(all: readonly Completed[]): string {
  const commands = all.map(({ command: { name, about } }) => `    '${name}:${about}'`).join("\n");
  const cases = all
    .map(({ command, options }) => {
      const specs = options.map(({ name, about, takesValue, choices }) => {
        const value = choices.length > 0 ? `:value:(${choices.join(" ")})` : takesValue ? ":value:_files" : "";
        return `        '${name}[${about}]${value}'`;
      });
      return `    ${command.name})\n      _arguments \\\n${specs.join(" \\\n")} \\\n        '*:file:_files'\n      ;;`;
    })
    .join("\n");
  return `#compdef physarium
# zsh completion for physarium: physarium completion zsh > "\${fpath[1]}/_physarium"
_physarium() {
  local -a commands
  commands=(
${commands}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  local command="\${words[2]}"
  shift words
  (( CURRENT-- ))
  case "$command" in
${cases}
  esac
}
if [ "$funcstack[1]" = "_physarium" ]; then
  _physarium "$@"
else
  compdef _physarium physarium
fi
`;
}

function fish(all: readonly Completed[]): string {
  const lines = all.flatMap(({ command, options }) => [
    `complete -c physarium -n __fish_use_subcommand -f -a ${command.name} -d '${command.about}'`,
    ...options.map(({ name, about, takesValue, choices }) => {
      const value = choices.length > 0 ? ` -x -a '${choices.join(" ")}'` : takesValue ? " -r" : "";
      return (
        `complete -c physarium -n '__fish_seen_subcommand_from ${command.name}' -l ${name.slice(2)}${value} ` +
        `-d '${about}'`
      );
    }),
  ]);
  return (
    "# fish completion for physarium: physarium completion fish > ~/.config/fish/completions/physarium.fish\n" +
    `${lines.join("\n")}\n`
  );
}
