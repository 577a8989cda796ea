// A reporter for CI: names the tests that passed on their second try only, so that a retry hides nothing.
export default class Unsteady {
  names = [];

  onTestCaseResult(test) {
    if (test.diagnostic()?.flaky) this.names.push(`${test.module.relativeModuleId}: ${test.fullName}`);
  }

  onTestRunEnd() {
    for (const name of this.names) console.log(`unsteady, passed on its second try: ${name}`);
  }
}
