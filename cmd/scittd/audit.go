package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/checkpoint"
	"github.com/scittd/scittd/internal/cose"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/replay"
)

// errDeviates marks decisions or receipts that replay does not find as they are
// recorded: exit code 12. errUnproven marks a log of which nothing is known to be
// wrong, but not all was shown that was asked for: 13.
var (
	errDeviates = errors.New("recorded otherwise than replayed")
	errUnproven = errors.New("not proven")
)

// auditRun is one audit.
type auditRun struct {
	process
	replay, dir, tokenFile string
	key, checkpoint        string
	workers                int
	from                   uint64
	complete, verbose      bool
	format                 string
	before                 uint64 // decisions that the folder had, and that were not asked for again
}

func auditCommand(p process) *cobra.Command {
	r := &auditRun{process: p}
	cmd := &cobra.Command{
		Use:   "audit --replay URL|FOLDER",
		Short: "Repeat every decision of a log, offline once it is downloaded",
		Long: `Download entries, decisions, policies and collateral of a log, and repeat every
decision: the tree and every signed head are recomputed, receipts checked, and
each entry is judged again by the policy that was in force at its place, at the
time of its head. What is recorded otherwise is listed, entry by entry with the
rule.

From a URL it downloads into --dir first, where an interrupted run goes on, and a
later one adds what is new; without --dir, into a folder that is removed at the
end. What the folder has is not asked for again: a decision that the service has
changed since shows in a new folder only. How many those are is told. A FOLDER that
was downloaded is replayed without any network.

What the log shows only to readers needs a token of scope read: else those entries
are counted and named, but not judged, also when a token comes later: that needs a
folder of its own. So are those whose rule depends on such entries before them
(needs, sequence, newest, unique), and those whose payload or evidence is gone.

Nobody but you knows whose log this has to be: compare the operator key that is
printed with the one that you were given, or name that with --key; and hold the
log against a checkpoint that you kept, with --checkpoint.

Exit code 0: all that could be judged is as recorded. 12: a decision or a receipt
is not. 13: the operator key is another one or, with --complete, something could
not be judged. 15: the log is not what was signed (tree, heads, keys, policies, or
the checkpoint). 1: the download failed; run it again. 2: usage.`,
		Example: "  scittd audit --replay https://scitt.example --dir audit --key operator.pub\n  scittd audit --replay audit --key operator.pub --complete",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&r.replay, "replay", "", "`URL` of a service, or folder that was downloaded")
	flags.StringVar(&r.dir, "dir", "", "folder to download to, and to go on in")
	flags.StringVar(&r.tokenFile, "token-file", "", "file with a token of scope read, for private entries")
	flags.StringVar(&r.key, "key", "", "file with the operator key that the first policy has to be signed with: PEM or COSE_Key")
	flags.StringVar(&r.checkpoint, "checkpoint", "", "file with a checkpoint of this log that the log has to continue")
	flags.IntVar(&r.workers, "workers", 0, "how many decisions are made at once (default: one for each core)")
	flags.Uint64Var(&r.from, "from", 0, "`index` of the first entry to judge; of those below, policies and announcements alone are")
	flags.BoolVar(&r.complete, "complete", false, "everything has to be judged: exit code 13 when something cannot be")
	flags.BoolVarP(&r.verbose, "verbose", "v", false, "show progress every 10 s where there is no terminal")
	flags.StringVar(&r.format, "format", "text", "text or json")
	return cmd
}

func (r *auditRun) run(ctx context.Context) error {
	switch {
	case r.replay == "":
		return fmt.Errorf("%w: what to replay\nTry:   scittd audit --replay URL", errUsage)
	case r.format != "text" && r.format != "json":
		return fmt.Errorf("%w: --format %q is none of text, json", errUsage, r.format)
	case r.workers < 0:
		return fmt.Errorf("%w: --workers %d", errUsage, r.workers)
	}
	pinned, err := r.operatorKey()
	if err != nil {
		return err
	}
	old, err := r.oldCheckpoint()
	if err != nil {
		return err
	}
	folder, done, err := r.folder(ctx)
	if err != nil {
		return err
	}
	defer done()
	line := r.progress("replay")
	o := replay.Options{From: r.from, Workers: r.workers, Progress: line.show}
	found := []replay.Deviation{}
	o.Found = func(d replay.Deviation) {
		if len(found) < maxFindings {
			found = append(found, d)
		}
	}
	if old != nil {
		o.Roots = []uint64{old.Size}
	}
	report, err := replay.Run(ctx, folder, o)
	line.clear()
	if errors.Is(err, replay.ErrNoPolicy) {
		return fmt.Errorf("%w: %w", errMisbehaved, err)
	}
	if err != nil {
		return err
	}
	var lost error
	if old != nil {
		lost = old.continues(report)
	}
	if err := r.print(report, found, pinned); err != nil {
		return err
	}
	return r.outcome(report, pinned, lost)
}

// outcome is the error that the exit code is made of: the gravest first.
func (r *auditRun) outcome(report replay.Report, pinned string, lost error) error {
	n := report.Deviations
	switch {
	case n[replay.Log] > 0:
		return fmt.Errorf("%w: %d findings in a log of size %d: it is not what was signed", errMisbehaved, n[replay.Log], report.Size)
	case lost != nil:
		return fmt.Errorf("%w: %w", errMisbehaved, lost)
	case pinned != "" && pinned != report.Operator:
		return fmt.Errorf("%w: the first policy is signed by operator key %s, and --key is %s: this is another log", errUnproven, report.Operator, pinned)
	case report.Deviating() > 0:
		return fmt.Errorf("%w: %d decisions and %d receipts", errDeviates, n[replay.Decision], n[replay.Receipt])
	case r.complete && report.Missing() > 0:
		return fmt.Errorf("%w: %d entries could not be judged again", errUnproven, report.Missing())
	}
	return nil
}

func (r *auditRun) print(report replay.Report, found []replay.Deviation, pinned string) error {
	if r.format == "json" {
		return printJSON(r.stdout, struct {
			replay.Report
			Root       string             `json:"root"`
			Total      uint64             `json:"total"`    // of deviations
			NotAsked   uint64             `json:"notAsked"` // decisions that came from the folder
			Deviations []replay.Deviation `json:"findings"`
		}{report, hex.EncodeToString(report.Root[:]), report.Deviating(), r.before, found})
	}
	for _, d := range found {
		fmt.Fprintf(r.stdout, "DEVIATES       %s\n", plain(d.String()))
	}
	if more := report.Deviating() - uint64(len(found)); more > 0 {
		fmt.Fprintf(r.stdout, "DEVIATES       and %d more\n", more)
	}
	for _, g := range report.Gaps {
		fmt.Fprintf(r.stdout, "NOT REPLAYED   %d entries: %s (%s)\n", g.Count, g.Why, entries(g))
	}
	if r.before > 0 {
		fmt.Fprintf(r.stdout, "NOT CHECKED    whether the service says the same now: %d decisions came from the folder and were not asked for again\n", r.before)
	}
	if pinned == "" {
		fmt.Fprintf(r.stdout, "NOT CHECKED    whose log this is: compare operator key %s with the one you were given (--key FILE)\n", report.Operator)
	}
	if report.Deviating() == 0 {
		decisions := fmt.Sprint(report.Replayed)
		if report.Replayed < report.Size {
			decisions = fmt.Sprintf("%d of %d", report.Replayed, report.Size)
		}
		fmt.Fprintf(r.stdout, "OK             size %d, root %x: %s decisions under %d policies as recorded, %d heads as signed, %d receipts\n",
			report.Size, report.Root, decisions, report.Policies, report.Heads, report.Receipts)
	}
	return nil
}

// plain is text that a log has said, without what would steer a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// entries names those of a gap, as far as they fit a line.
func entries(g replay.Gap) string {
	names := []string{}
	for _, index := range g.Entries[:min(8, len(g.Entries))] {
		names = append(names, fmt.Sprint(index))
	}
	if g.Count > 8 {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// folder is what is replayed; done gives it back.
func (r *auditRun) folder(ctx context.Context) (*replay.Folder, func(), error) {
	if strings.HasPrefix(r.replay, "http://") || strings.HasPrefix(r.replay, "https://") {
		return r.download(ctx)
	}
	if r.dir != "" || r.tokenFile != "" {
		return nil, nil, fmt.Errorf("%w: --dir and --token-file are for a URL, and %s is none", errUsage, r.replay)
	}
	f, err := openFolder(r.replay)
	if err != nil {
		return nil, nil, err
	}
	return f, func() { f.Close() }, nil
}

func openFolder(dir string) (*replay.Folder, error) {
	f, err := replay.OpenFolder(dir)
	switch {
	case errors.Is(err, replay.ErrIncomplete):
		return nil, fmt.Errorf("%w\nTry:   scittd audit --replay URL --dir %s", err, dir)
	case errors.Is(err, replay.ErrFolder):
		if _, missing := os.Stat(filepath.Join(dir, "tile")); missing == nil {
			return nil, fmt.Errorf("%w: %s is a log as log.publish shows it, which has no decisions and no collateral\nTry:   scittd audit --replay URL, with that of the service", errUsage, dir)
		}
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	return f, err
}

// operatorKey is the thumbprint of --key, as in an Identity; "" without.
func (r *auditRun) operatorKey() (string, error) {
	if r.key == "" {
		return "", nil
	}
	b, err := os.ReadFile(r.key)
	if err != nil {
		return "", fmt.Errorf("%w: --key: %w", errUsage, err)
	}
	key, err := cose.ParsePublic(b)
	if err != nil {
		return "", fmt.Errorf("%w: --key %s: %w", errUsage, r.key, err)
	}
	sum, err := cose.Thumbprint(key.Public)
	return hex.EncodeToString(sum[:]), err
}

// keptCheckpoint is a checkpoint that somebody kept. Its signature is verified when it is
// known which keys the log announced.
type keptCheckpoint struct {
	checkpoint.Checkpoint
	file string
	text []byte
}

func (r *auditRun) oldCheckpoint() (*keptCheckpoint, error) {
	if r.checkpoint == "" {
		return nil, nil
	}
	text, err := os.ReadFile(r.checkpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: --checkpoint: %w", errUsage, err)
	}
	c, err := checkpoint.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: --checkpoint %s: %w", errUsage, r.checkpoint, err)
	}
	return &keptCheckpoint{c, r.checkpoint, text}, nil
}

// continues says why the log is not the one that the checkpoint was made of.
func (c *keptCheckpoint) continues(report replay.Report) error {
	var keys []note.Verifier
	for _, svc := range report.Announced {
		for _, vkey := range svc.CheckpointKeys {
			if v, err := note.NewVerifier(vkey); err == nil {
				keys = append(keys, v)
			}
		}
	}
	if len(report.Announced) > 0 && c.Origin != report.Announced[0].Origin {
		return fmt.Errorf("checkpoint %s is of another log: %q, and this is %q", c.file, c.Origin, report.Announced[0].Origin)
	}
	if _, err := note.Open(c.text, note.VerifierList(keys...)); err != nil {
		return fmt.Errorf("checkpoint %s is signed by no checkpoint key of this log: %w", c.file, err)
	}
	root, has := report.Roots[c.Size]
	switch {
	case c.Size > report.Size:
		return fmt.Errorf("the log was rolled back: it ends at size %d, and checkpoint %s is of size %d", report.Size, c.file, c.Size)
	case has && root != c.Root:
		return fmt.Errorf("the log was rewritten: at size %d it has root %x, and checkpoint %s has %x", c.Size, root, c.file, c.Root)
	}
	return nil
}

// sameLog refuses to go on with a download whose log is not there any more.
func sameLog(folder ledger.Head, heads []ledger.Head) error {
	if len(heads) == 0 || heads[0].Size != folder.Size || heads[0].Root != folder.Root {
		return fmt.Errorf("%w: the service does not have the head of size %d that was downloaded before: its log was rolled back or rewritten", errMisbehaved, folder.Size)
	}
	return nil
}
