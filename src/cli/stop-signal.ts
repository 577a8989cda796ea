/** A signal that Ctrl-C (or SIGTERM, SIGHUP) aborts; pressed twice, the process ends at once. What is done stays either way. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(130);
      controller.abort();
    });
  }
  return controller.signal;
}
