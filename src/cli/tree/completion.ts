import type { Command } from "commander";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

interface Word {
  readonly name: string;
  readonly about: string;
}

interface Completed {
  /** As it is typed behind `physarium`: `surgery`, `farm plan`. */
  readonly path: string;
  readonly options: readonly (Word & { readonly takesValue: boolean; readonly choices: readonly string[] })[];
}

/** What can be typed, from the command tree: nothing is listed by hand. */
interface Tree {
  readonly commands: readonly Word[];
  /** Commands that have commands of their own, with those. */
  readonly groups: readonly { readonly name: string; readonly commands: readonly Word[] }[];
  readonly all: readonly Completed[];
}

function treeOf(program: Command): Tree {
  const groups = program.commands.filter(({ commands }) => commands.length > 0);
  const wordOf = (command: Command): Word => ({ name: command.name(), about: firstClause(command.description()) });
  return {
    commands: program.commands.map(wordOf),
    groups: groups.map((group) => ({ name: group.name(), commands: group.commands.map(wordOf) })),
    all: [
      ...program.commands.map((command) => completed(command.name(), command)),
      ...groups.flatMap((group) =>
        group.commands.map((command) => completed(`${group.name()} ${command.name()}`, command)),
      ),
    ],
  };
}

function completed(path: string, command: Command): Completed {
  return {
    path,
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
  };
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
  const tree = treeOf(program);
  if (shell === "bash") return bash(tree);
  return shell === "zsh" ? zsh(tree) : fish(tree);
}

function bash({ commands, groups, all }: Tree): string {
  const namesOf = (words: readonly Word[]) => words.map(({ name }) => name).join(" ");
  const cases = all
    .map(({ path, options }) => `    "${path}") options="${options.map(({ name }) => name).join(" ")}" ;;`)
    .join("\n");
  const values = all.flatMap(({ path, options }) =>
    options
      .filter(({ choices }) => choices.length > 0)
      .map(({ name, choices }) => `    "${path} ${name}") values="${choices.join(" ")}" ;;`),
  );
  const inner = groups.map((group) => `    ${group.name}) inner="${namesOf(group.commands)}" ;;`).join("\n");
  return `# bash completion for physarium: source <(physarium completion bash)
_physarium() {
  local word="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" command="\${COMP_WORDS[1]}"
  local options="" values="" inner=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "${namesOf(commands)} help --help --version" -- "$word"))
    return
  fi
  case "$command" in
${inner}
    *) ;;
  esac
  if [ -n "$inner" ] && [ "$COMP_CWORD" -eq 2 ]; then
    COMPREPLY=($(compgen -W "$inner --help" -- "$word"))
    return
  fi
  if [ -n "$inner" ]; then command="$command \${COMP_WORDS[2]}"; fi
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

function zsh({ commands, groups, all }: Tree): string {
  const described = (words: readonly Word[]) => words.map(({ name, about }) => `    '${name}:${about}'`).join("\n");
  const cases = all
    .filter(({ path }) => !groups.some(({ name }) => name === path))
    .map(({ path, options }) => {
      const specs = options.map(({ name, about, takesValue, choices }) => {
        const value = choices.length > 0 ? `:value:(${choices.join(" ")})` : takesValue ? ":value:_files" : "";
        return `        '${name}[${about}]${value}'`;
      });
      return `    '${path}')\n      _arguments \\\n${specs.join(" \\\n")} \\\n        '*:file:_files'\n      ;;`;
    })
    .join("\n");
  const inner = groups
    .map((group) => `    ${group.name})\n      commands=(\n${described(group.commands)}\n      )\n      ;;`)
    .join("\n");
  return `#compdef physarium
# zsh completion for physarium: physarium completion zsh > "\${fpath[1]}/_physarium"
_physarium() {
  local -a commands
  commands=(
${described(commands)}
  )
  if (( CURRENT == 2 )); then
    _describe 'command' commands
    return
  fi
  local command="\${words[2]}"
  shift words
  (( CURRENT-- ))
  commands=()
  case "$command" in
${inner}
  esac
  if (( \${#commands} )); then
    if (( CURRENT == 2 )); then
      _describe 'command' commands
      return
    fi
    command="$command \${words[2]}"
    shift words
    (( CURRENT-- ))
  fi
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

function fish({ commands, groups, all }: Tree): string {
  const names = groups.map(({ name }) => name).join(" ");
  const seen = (words: string) => `__fish_seen_subcommand_from ${words}`;
  // `plan` is a command, and one of the farm's.
  const reached = (path: string): string => {
    const [first, second] = path.split(" ");
    if (second !== undefined) return `${seen(first)}; and ${seen(second)}`;
    return groups.some(({ name }) => name === first) ? seen(first) : `${seen(first)}; and not ${seen(names)}`;
  };
  const lines = [
    ...commands.map(({ name, about }) => `complete -c physarium -n __fish_use_subcommand -f -a ${name} -d '${about}'`),
    ...groups.flatMap((group) => {
      const none = `not ${seen(group.commands.map(({ name }) => name).join(" "))}`;
      return group.commands.map(
        ({ name, about }) => `complete -c physarium -n '${seen(group.name)}; and ${none}' -f -a ${name} -d '${about}'`,
      );
    }),
    ...all.flatMap(({ path, options }) =>
      options.map(({ name, about, takesValue, choices }) => {
        const value = choices.length > 0 ? ` -x -a '${choices.join(" ")}'` : takesValue ? " -r" : "";
        return `complete -c physarium -n '${reached(path)}' -l ${name.slice(2)}${value} -d '${about}'`;
      }),
    ),
  ];
  return (
    "# fish completion for physarium: physarium completion fish > ~/.config/fish/completions/physarium.fish\n" +
    `${lines.join("\n")}\n`
  );
}
