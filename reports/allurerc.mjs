// How Allure shows a run: grouped by the family of faults, with the last runs beside it for comparison.

export default {
  name: "ftvmm: failover scenarios",
  output: "reports/allure-report",
  historyPath: ".state/allure-history.jsonl",
  historyLimit: 20,
  appendHistory: true,
  // What a scenario that did not pass says, by the promise or the proof that it broke; the first that fits.
  categories: [
    { name: "Output rule broken", matchedStatuses: ["failed"], messageRegex: "oracle output-rule: failed" },
    { name: "Split brain", matchedStatuses: ["failed"], messageRegex: "oracle single-speaker: failed" },
    {
      name: "Failover not transparent",
      matchedStatuses: ["failed"],
      messageRegex: "oracle (linearizable|durable|connections-kept|stall-bounded|ticks-complete): failed",
    },
    { name: "Fault not confirmed", matchedStatuses: ["failed"], messageRegex: "oracle faults-confirmed: failed" },
    { name: "The machine stood still", matchedStatuses: ["broken"], messageRegex: "machine-stood-still" },
    { name: "Too little evidence", matchedStatuses: ["failed", "broken"], messageRegex: ": insufficient" },
    { name: "Lab or harness", matchedStatuses: ["broken"] },
  ],
  plugins: {
    awesome: {
      options: {
        reportName: "ftvmm: failover scenarios",
        groupBy: ["epic", "feature", "story"],
        reportLanguage: "en",
      },
    },
  },
};
