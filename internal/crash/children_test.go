package crash

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// children starts processes that end with this one, however it ends: an
// interrupted run leaves no service behind. The kernel holds a child to the thread
// that started it, and so there is one that stays.
type children chan func()

func (c children) run() {
	runtime.LockOSThread()
	for start := range c {
		start()
	}
}

func (c children) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	c <- func() { started <- cmd.Start() }
	return <-started
}

// asParent makes this test binary a process that starts a child and waits to be
// killed.
const asParent = "SCITTD_CRASH_PARENT"

func TestAnInterruptedRunLeavesNoServiceBehind(t *testing.T) {
	parent := exec.Command(os.Args[0], "-test.run", "^$")
	parent.Env = append(os.Environ(), asParent+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	// The child holds the pipe, which ends when both are gone.
	from := bufio.NewReader(out)
	if line, err := from.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := from.ReadByte(); err != io.EOF {
		t.Errorf("after its parent was killed the child says %v, want its end", err)
	}
	parent.Wait() // how it ended does not matter
}

// beParent is the process that is killed.
func beParent() {
	cmd := exec.Command("sh", "-c", "echo begun; exec sleep 600")
	cmd.Stdout = os.Stdout
	if err := services.start(cmd); err != nil {
		panic(err)
	}
	cmd.Wait()
}
