// The main job on the embedded donor: operate, verify, say where the report is. Safe to run again.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const donor = "examples/donors/loam";
const output = "demo-output/loam-operated";

function physarium(...args) {
  console.log(`\n$ physarium ${args.join(" ")}`);
  const { status, error } = spawnSync(process.execPath, ["dist/cli/main.js", ...args], { cwd: root, stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

physarium("surgery", donor, output, "--overwrite", "--eval", "examples/texts/loam-stories.txt");
physarium("verify", donor, output);
console.log(`\nThe report: ${output}/physarium/report.html (open it in a browser), ${output}/physarium/REPORT.md`);
