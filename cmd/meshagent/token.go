package main

import (
	"strings"

	"github.com/meshkit/meshkit/pkg/cli/cliutil"
	"github.com/meshkit/meshkit/pkg/durable"
	"github.com/meshkit/meshkit/pkg/fault"
)

// tokenVariable holds a join token where no list of processes shows it.
const tokenVariable = "MESHKIT_TOKEN"

// maxTokenFile bounds a file with a token, in bytes.
const maxTokenFile = 4 << 10

// joinToken gives the token of --token, else of the file that --token-file names, else
// of MESHKIT_TOKEN; empty when there is none. The first shows in the list of processes.
func joinToken(io *cliutil.IO, flag, file string) (string, error) {
	switch {
	case flag != "" && file != "":
		return "", cliutil.Usagef("--token and --token-file exclude each other")
	case flag != "":
		return flag, nil
	case file == "":
		return strings.TrimSpace(io.Env(tokenVariable)), nil
	}
	data, err := durable.ReadFile(durable.OS, file, maxTokenFile)
	if err != nil {
		return "", fault.New(fault.CodeJoinArguments, "token file: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fault.New(fault.CodeJoinArguments, "token file %s is empty", file)
	}
	return token, nil
}
