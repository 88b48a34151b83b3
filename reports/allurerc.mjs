// How Allure shows a run: grouped by the family of faults, with the last runs beside it for comparison.

export default {
  name: "ftvmm: failover scenarios",
  output: "reports/allure-report",
  historyPath: ".state/allure-history.jsonl",
  historyLimit: 20,
  appendHistory: true,
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
