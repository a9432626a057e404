// Package cliutil is what every verb of meshctl stands on: the streams it talks
// through (IO), how values are printed (Printer), how errors are shown and
// which exit code they end in (Report, ExitCode), contexts (Contexts), and the
// App that carries all of it to the commands.
//
// stdout is data, stderr is for people. Text that comes from elsewhere — files,
// hubs, agents — passes through Clean before it reaches a terminal. A command
// runs in one goroutine; nothing here is safe for concurrent use unless it says
// so.
package cliutil
