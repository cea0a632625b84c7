package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/scittd/scittd/internal/checkpoint"
	"github.com/scittd/scittd/ledger"
	"github.com/scittd/scittd/ledger/fsck"
	"github.com/scittd/scittd/policy"
	"github.com/scittd/scittd/statement"
)

// errMisbehaved marks a log that is not what was signed: exit code 15.
var errMisbehaved = errors.New("log damaged")

// maxFindings is how many findings are told one by one.
const maxFindings = 1000

func logCommand(p process) *cobra.Command {
	return group("log", "Check the log, rebuild its index, show its size",
		logFsck(p), logVerify(p), logReindex(p), logStats(p))
}

// logRun is what the log's commands have in common.
type logRun struct {
	process
	dir, file, format string
}

// command makes a log command that runs work on the opened database.
func (r *logRun) command(cmd *cobra.Command, open func(context.Context, Config) (database, error), work func(context.Context, database) error) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.format != "text" && r.format != "json" {
			return fmt.Errorf("%w: --format %q is none of text, json", errUsage, r.format)
		}
		c, err := serveConfig(cmd, r.process, r.dir, r.file)
		if err != nil {
			return err
		}
		db, err := open(cmd.Context(), c)
		if err == nil {
			err = errors.Join(work(cmd.Context(), db), db.Close())
		}
		return err
	}
	cmd.Flags().StringVar(&r.format, "format", "text", "text or json")
	addLocationFlags(cmd, &r.dir, &r.file)
	return cmd
}

// report is what a log command prints.
type report struct {
	Size     uint64         `json:"size"`
	Detached uint64         `json:"detached,omitempty"` // entries whose payload is not in the log
	Root     string         `json:"root,omitempty"`     // hex
	Total    int            `json:"total"`              // of findings
	Findings []fsck.Finding `json:"findings"`           // the first of them
	*fsck.Difference
}

func newReport() *report { return &report{Findings: []fsck.Finding{}} }

func (r *report) add(f fsck.Finding) {
	if r.Total++; r.Total <= maxFindings {
		r.Findings = append(r.Findings, f)
	}
}

// print writes r and, when nothing was found, the sentence that says so.
func (r *logRun) print(p *report, sound string) error {
	if r.format == "json" {
		return printJSON(r.stdout, p)
	}
	for _, f := range p.Findings {
		fmt.Fprintf(r.stdout, "DAMAGED  %v\n", f)
	}
	if more := p.Total - len(p.Findings); more > 0 {
		fmt.Fprintf(r.stdout, "DAMAGED  and %d findings more\n", more)
	}
	if p.Total == 0 {
		fmt.Fprintf(r.stdout, "OK       %s\n", sound)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

const repair = "what the log itself lost comes back from a backup or a standby that still has it; for index and tiles: scittd log reindex"

func logFsck(p process) *cobra.Command {
	r := &logRun{process: p}
	return r.command(&cobra.Command{
		Use:   "fsck",
		Short: "Recompute the whole log and its index, and list what is stored otherwise",
		Long: `Recompute the whole log and its index from the statements, and list what is
stored otherwise: heads and their signatures, tiles, entries, index rows, what is
kept beside them, deliveries. It only reads, and may run beside the service.
Of a statement with a detached payload the log has the digest of that alone: its
issuer's signature was verified when it came, and can be again by whoever has
the payload still (scitt verify --evidence); how many there are is said.
Exit code 15: something is damaged.`,
	}, openBeside, func(ctx context.Context, db database) error {
		out := newReport()
		tally, err := fsck.Check(ctx, db, out.add)
		if err != nil {
			return err
		}
		out.Size, out.Detached = tally.Size, tally.Detached
		sound := fmt.Sprintf("%d entries: heads, tiles, statements, index and deliveries agree", out.Size)
		if out.Detached > 0 {
			sound += fmt.Sprintf("\nNOT RECOMPUTED  the issuer's signature of %d entries, whose payload is detached: the log has its digest", out.Detached)
		}
		if err := r.print(out, sound); err != nil {
			return err
		}
		if out.Total > 0 {
			return fmt.Errorf("%w: %d findings in a log of size %d\nTry:   %s", errMisbehaved, out.Total, out.Size, repair)
		}
		return nil
	})
}

func logVerify(p process) *cobra.Command {
	r := &logRun{process: p}
	var against string
	cmd := r.command(&cobra.Command{
		Use:   "verify [--against CHECKPOINT-FILE]",
		Short: "Recompute every root from the leaves, and hold the log against an old checkpoint",
		Long: `Recompute the root of every head from the leaves. With --against, a checkpoint of
this log that somebody kept (a signed note), the log must still have the root that
it shows. It only reads. Exit code 15: it has not, or a root is wrong.`,
	}, openBeside, func(ctx context.Context, db database) error {
		var old *checkpoint.Checkpoint
		var at []uint64
		if against != "" {
			text, err := os.ReadFile(against)
			if err != nil {
				return fmt.Errorf("%w: --against: %w", errUsage, err)
			}
			if old, err = openCheckpoint(ctx, db, text); err != nil {
				return fmt.Errorf("%w: --against %s: %w", errUsage, against, err)
			}
			at = []uint64{old.Size}
		}
		out := newReport()
		newest, roots, err := fsck.Verify(ctx, db, at, out.add)
		if err != nil {
			return err
		}
		out.Size, out.Root = newest.Size, fmt.Sprintf("%x", newest.Root)
		sound := fmt.Sprintf("size %d, root %x: every head has the root that the leaves give", newest.Size, newest.Root)
		if old != nil {
			object := fmt.Sprintf("checkpoint of size %d", old.Size)
			root, has := roots[old.Size]
			switch {
			case old.Size > newest.Size:
				out.add(fsck.Finding{Kind: fsck.Head, Object: object, What: fmt.Sprintf("the log was rolled back: it ends at size %d, %d entries are missing", newest.Size, old.Size-newest.Size)})
			case has && root != old.Root:
				out.add(fsck.Finding{Kind: fsck.Head, Object: object, What: "the log was rewritten: it has another root there", Got: fmt.Sprintf("%x", root), Want: fmt.Sprintf("%x", old.Root)})
			}
			sound += fmt.Sprintf(", and continues the checkpoint of size %d", old.Size)
		}
		if err := r.print(out, sound); err != nil {
			return err
		}
		if out.Total > 0 {
			return fmt.Errorf("%w: the log of size %d is not the one that was signed\nTry:   scittd log fsck", errMisbehaved, newest.Size)
		}
		return nil
	})
	cmd.Flags().StringVar(&against, "against", "", "file with a checkpoint of this log")
	return cmd
}

func logReindex(p process) *cobra.Command {
	r := &logRun{process: p}
	var write bool
	cmd := r.command(&cobra.Command{
		Use:   "reindex [--write]",
		Short: "Rebuild index and tiles from the statements, and show the difference",
		Long: `Rebuild every index row, dictionary and tile from the statements and show how the
stored ones differ. With --write they are replaced, one transaction for each page
of the log; a log that is damaged itself is not touched. PostgreSQL may be served
meanwhile; a SQLite service must be stopped for --write. Restart services that
stopped signing afterwards. Exit code 15: there is a difference, and it stays.`,
	}, func(ctx context.Context, c Config) (database, error) {
		if write {
			return openDatabase(ctx, c)
		}
		return openBeside(ctx, c)
	}, func(ctx context.Context, db database) error {
		out := newReport()
		run := fsck.Compare
		if write {
			run = fsck.Reindex
		}
		d, err := run(ctx, db, out.add)
		out.Size, out.Difference = d.Size, &d
		if errors.Is(err, fsck.ErrUnsound) {
			err = fmt.Errorf("%w: %w\nTry:   %s", errMisbehaved, err, repair)
		}
		if err = errors.Join(r.print(out, fmt.Sprintf("%d entries: index and tiles are identical to what the statements give", d.Size)), err); err != nil {
			return err
		}
		difference := fmt.Sprintf("%d index rows, %d tiles, %d rows of the database", d.Entries, d.Tiles, d.Terms)
		switch {
		case d.Same():
			return nil
		case !write:
			return fmt.Errorf("%w: %s differ\nTry:   scittd log reindex --write", errMisbehaved, difference)
		}
		fmt.Fprintf(r.stderr, "Rewritten: %s.\n", difference)
		left := newReport()
		if d, err = fsck.Compare(ctx, db, left.add); err != nil {
			return err
		}
		if !d.Same() {
			return fmt.Errorf("%w: %v\nTry:   scittd log fsck, for what is left follows from no statement", errMisbehaved, left.Findings[0])
		}
		return nil
	})
	cmd.Flags().BoolVar(&write, "write", false, "replace what differs")
	return cmd
}

func logStats(p process) *cobra.Command {
	r := &logRun{process: p}
	return r.command(&cobra.Command{Use: "stats", Short: "Show sizes of log and tables"}, openBeside, func(ctx context.Context, db database) error {
		head, err := db.Head(ctx)
		if err != nil {
			return err
		}
		tables, err := db.Tables(ctx)
		if err != nil {
			return err
		}
		var total int64
		for _, t := range tables {
			total += t.Bytes
		}
		if r.format == "json" {
			return printJSON(r.stdout, struct {
				Size   uint64         `json:"size"`
				Root   string         `json:"root"`
				Time   string         `json:"time"`
				Policy uint64         `json:"policy"`
				Bytes  int64          `json:"bytes"`
				Tables []ledger.Table `json:"tables"`
			}{head.Size, fmt.Sprintf("%x", head.Root), head.Time.UTC().Format("2006-01-02T15:04:05Z"), head.Policy, total, tables})
		}
		w := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(r.stdout, "size    %d\nroot    %x\ntime    %s\npolicy  entry %d\nbytes   %d, %d an entry\n\n",
			head.Size, head.Root, head.Time.UTC().Format("2006-01-02T15:04:05Z"), head.Policy, total, total/int64(max(head.Size, 1)))
		fmt.Fprintln(w, "table\trows\tbytes\tan entry\t")
		for _, t := range tables {
			rows := strconv.FormatInt(t.Rows, 10)
			if t.Rows < 0 {
				rows = ""
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t\n", t.Name, rows, t.Bytes, float64(t.Bytes)/float64(max(head.Size, 1)))
		}
		return w.Flush()
	})
}

// openCheckpoint reads a checkpoint that a key announced in the log has signed.
func openCheckpoint(ctx context.Context, db database, text []byte) (*checkpoint.Checkpoint, error) {
	var keys []note.Verifier
	q := ledger.Query{Scope: ledger.All, MediaTypes: []string{policy.ServiceMediaType}, Limit: ledger.MaxPage}
	for more := true; more; {
		page, err := db.Find(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			announced, err := checkpointKeys(ctx, db, e)
			if err != nil {
				return nil, err
			}
			keys = append(keys, announced...)
			q.Before = e.Index
		}
		more = len(page) == q.Limit
	}
	n, err := note.Open(text, note.VerifierList(keys...))
	if err != nil {
		return nil, fmt.Errorf("it is not signed by a checkpoint key of this log: %w", err)
	}
	c, err := readCheckpoint(text, n.Sigs[0].Name)
	return &c, err
}

// readCheckpoint reads a verified one of a log.
func readCheckpoint(signed []byte, origin string) (checkpoint.Checkpoint, error) {
	c, err := checkpoint.Parse(signed)
	if err == nil && c.Origin != origin {
		err = fmt.Errorf("it is no checkpoint of %s", origin)
	}
	return c, err
}

// checkpointKeys are those that service statement e announces.
func checkpointKeys(ctx context.Context, db database, e ledger.Entry) ([]note.Verifier, error) {
	r, err := db.Record(ctx, e.ID, ledger.All)
	if err != nil {
		return nil, err
	}
	s, err := statement.Parse(r.Canonical)
	if err != nil {
		return nil, err
	}
	var svc ledger.Service
	if err := json.Unmarshal(s.Payload, &svc); err != nil {
		return nil, err
	}
	var keys []note.Verifier
	for _, vkey := range svc.CheckpointKeys {
		v, err := note.NewVerifier(vkey)
		if err != nil {
			return nil, err
		}
		keys = append(keys, v)
	}
	return keys, nil
}
