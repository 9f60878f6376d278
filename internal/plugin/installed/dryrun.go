package installed

// DryRun says what of a change to a pod really happens.
type DryRun string

const (
	DryRunNone DryRun = ""
	// DryRunClient sends nothing that would change anything.
	DryRunClient DryRun = "client"
	// DryRunServer sends everything for the server to try and to forget.
	DryRunServer DryRun = "server"
)
