import ts from "typescript";
import { expect, test } from "vitest";

/** Names that `import … from "physarium"` gives and that say nothing of themselves where they are declared. */
function undocumented(): { readonly names: string[]; readonly count: number } {
  const { config } = ts.readConfigFile("tsconfig.build.json", ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, ".");
  const program = ts.createProgram(["src/index.ts"], options);
  const checker = program.getTypeChecker();
  const index = checker.getSymbolAtLocation(program.getSourceFile("src/index.ts")!)!;
  const exported = checker.getExportsOfModule(index);
  const names = exported
    .filter((each) => {
      const symbol = each.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(each) : each;
      return ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim() === "";
    })
    .map(({ name }) => name);
  return { names, count: exported.length };
}

test("every exported name of the public API has a docstring", () => {
  const { names, count } = undocumented();
  expect(count).toBeGreaterThan(60);
  expect(names).toEqual([]);
});
