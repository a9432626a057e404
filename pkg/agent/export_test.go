package agent

// ReportEvery is the time between statuses.
const ReportEvery = reportEvery
