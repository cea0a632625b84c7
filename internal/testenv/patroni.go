//go:build patroni

package testenv

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Patroni is three PostgreSQL nodes that a patroni each looks after, and the
// etcd in which the patronis agree who leads: Debian's packages, on loopback.
// Replication is synchronous and strict: a commit is on two nodes before it is
// acknowledged, or waits.
type Patroni struct {
	bin, dir string
	password string
	etcd     int // client port
	nodes    []*patroniNode
	watcher  *watcher
}

type patroniNode struct {
	name      string
	port, api int
	exited    chan error // of its patroni
}

// The failover times are short for a machine of its own and long enough for one
// that is busy. TTL is what a dead node's leadership outlives it; patroni wants
// TTL >= LoopWait + 2*RetryTimeout.
const (
	PatroniTTL          = 8
	PatroniLoopWait     = 1
	PatroniRetryTimeout = 3
)

// patroniConfig is written for one node.
const patroniConfig = `scope: scittd
name: %[1]s
restapi: {listen: "127.0.0.1:%[2]d", connect_address: "127.0.0.1:%[2]d"}
etcd3: {host: "127.0.0.1:%[3]d"}
bootstrap:
  dcs:
    ttl: %[8]d
    loop_wait: %[9]d
    retry_timeout: %[10]d
    primary_start_timeout: 0
    synchronous_mode: true
    synchronous_mode_strict: true
    postgresql:
      use_pg_rewind: true
      parameters: {max_connections: 200, wal_log_hints: "on", wal_keep_size: 1GB, wal_retrieve_retry_interval: 500ms}
  initdb: [{encoding: UTF8}, {locale: C}, {auth-host: scram-sha-256}]
postgresql:
  listen: 127.0.0.1:%[4]d
  connect_address: 127.0.0.1:%[4]d
  bin_dir: %[5]s
  data_dir: %[6]s/%[1]s/data
  pgpass: %[6]s/%[1]s/pgpass
  authentication:
    superuser: {username: scittd, password: %[7]s}
    replication: {username: replicator, password: %[7]s}
    rewind: {username: rewinder, password: %[7]s}
  parameters: {unix_socket_directories: ""}
  pg_hba:
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication replicator 127.0.0.1/32 scram-sha-256
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
`

// LaunchPatroni starts the cluster and waits until it is whole.
func LaunchPatroni() (_ *Patroni, err error) {
	for _, program := range []string{"patroni", "etcd"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not installed: run scripts/patronideps (make compat-patroni does)", program)
		}
	}
	p := &Patroni{password: rand.Text()}
	if p.bin, err = postgresBinaries(); err != nil {
		return nil, err
	}
	if p.dir, err = folder("scittd-patroni-"); err != nil {
		return nil, err
	}
	log, err := p.log("watcher")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	defer log.Close()
	p.watcher, err = watch(log, `read -r _
		for try in 1 2 3; do
			for process in /proc/[0-9]*; do
				case $(readlink "$process/cwd") in "$1"|"$1"/*) kill -9 "${process#/proc/}" ;; esac
			done
		done
		rm -rf "$1"`, p.dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.startEtcd(); err != nil {
		return nil, err
	}
	for i := range 3 {
		n := &patroniNode{name: "node" + strconv.Itoa(i+1)}
		if n.port, err = freePort(); err != nil {
			return nil, err
		}
		if n.api, err = freePort(); err != nil {
			return nil, err
		}
		config := fmt.Sprintf(patroniConfig, n.name, n.api, p.etcd, n.port, p.bin, p.dir, p.password,
			PatroniTTL, PatroniLoopWait, PatroniRetryTimeout)
		if err := p.mkdir(n.name); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(p.dir, n.name, "patroni.yml"), []byte(config), 0o644); err != nil {
			return nil, err
		}
		p.nodes = append(p.nodes, n)
		if err := p.Start(n.name); err != nil {
			return nil, err
		}
	}
	if err := p.Whole(3 * time.Minute); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, tail(filepath.Join(p.dir, "node1.log")))
	}
	return p, nil
}

// Close kills everything and removes the folder.
func (p *Patroni) Close() error {
	err := p.watcher.close()
	for _, n := range p.nodes {
		if n.exited != nil {
			<-n.exited
		}
	}
	return err
}

// DSN names all nodes; the one that takes writes is looked for.
func (p *Patroni) DSN() string {
	var hosts, ports []string
	for _, n := range p.nodes {
		hosts, ports = append(hosts, "127.0.0.1"), append(ports, strconv.Itoa(n.port))
	}
	return fmt.Sprintf("host=%s port=%s user=scittd password=%s dbname=postgres sslmode=disable target_session_attrs=read-write",
		strings.Join(hosts, ","), strings.Join(ports, ","), p.password)
}

// Whole waits until one node leads, and both others follow it closely.
func (p *Patroni) Whole(limit time.Duration) error {
	return eventually(limit, func() error {
		var last error
		for _, n := range p.nodes {
			c, err := n.cluster()
			if err == nil {
				err = c.whole()
			}
			if err == nil {
				return nil
			}
			last = errors.Join(last, err)
		}
		return last
	})
}

// Leader is the name of the node that the patronis agree on.
func (p *Patroni) Leader() (string, error) {
	var last error
	for _, n := range p.nodes {
		c, err := n.cluster()
		if err != nil {
			last = err
			continue
		}
		for _, m := range c.Members {
			if m.Role == "leader" {
				return m.Name, nil
			}
		}
	}
	return "", errors.Join(errors.New("nobody leads"), last)
}

// Kill ends with SIGKILL the PostgreSQL of a node, and its patroni too if the
// whole machine is to be gone. It returns when no process is left.
func (p *Patroni) Kill(name string, machine bool) error {
	folder := filepath.Join(p.dir, name)
	if machine {
		err := kill(folder)
		<-p.node(name).exited
		return err
	}
	return kill(filepath.Join(folder, "data"))
}

// Start starts the patroni of a node.
func (p *Patroni) Start(name string) error {
	log, err := p.log(name + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := command("patroni", "patroni.yml")
	if err != nil {
		return err
	}
	cmd.Dir = filepath.Join(p.dir, name)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	p.node(name).exited = exited
	go func() {
		exited <- cmd.Wait()
		close(exited)
	}()
	return nil
}

func (p *Patroni) node(name string) *patroniNode {
	for _, n := range p.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no node " + name)
}

// kill repeats SIGKILL until no process works in folder.
func kill(folder string) error {
	return eventually(time.Minute, func() error {
		pids := processesIn(folder)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		return fmt.Errorf("processes in %s linger", folder)
	})
}

// processesIn lists what has folder, or a folder in it, as its working directory.
func processesIn(folder string) []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range procs {
		target, err := os.Readlink(cwd)
		if err == nil && (target == folder || strings.HasPrefix(target, folder+"/")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(cwd)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *Patroni) startEtcd() (err error) {
	if p.etcd, err = freePort(); err != nil {
		return err
	}
	peers, err := freePort()
	if err != nil {
		return err
	}
	log, err := p.log("etcd.log")
	if err != nil {
		return err
	}
	defer log.Close()
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", p.etcd), fmt.Sprintf("http://127.0.0.1:%d", peers)
	cmd, err := command("etcd", "--data-dir", filepath.Join(p.dir, "etcd"), "--listen-client-urls", client,
		"--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "default="+peer)
	if err != nil {
		return err
	}
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // the watcher ends it
	return nil
}

// mkdir makes a folder of the servers' user.
func (p *Patroni) mkdir(name string) error {
	path := filepath.Join(p.dir, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return p.own(path)
}

func (p *Patroni) own(path string) error {
	cred, err := unprivileged()
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

func (p *Patroni) log(name string) (*os.File, error) {
	path := filepath.Join(p.dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return f, p.own(path)
}

// patroniCluster is what a patroni tells of all of them.
type patroniCluster struct {
	Members []struct {
		Name, Role, State string
		Timeline          int
		Lag               any // bytes, or "unknown"
	}
}

var patroniClient = http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (n *patroniNode) cluster() (c patroniCluster, err error) {
	resp, err := patroniClient.Get(fmt.Sprintf("http://127.0.0.1:%d/cluster", n.api))
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	return c, json.NewDecoder(resp.Body).Decode(&c)
}

func (c patroniCluster) whole() error {
	roles, timelines := map[string]int{}, map[int]int{}
	for _, m := range c.Members {
		if m.State != "running" && m.State != "streaming" {
			return fmt.Errorf("%s is %s", m.Name, m.State)
		}
		if lag, ok := m.Lag.(float64); m.Role != "leader" && (!ok || lag > 1<<20) {
			return fmt.Errorf("%s lags %v bytes", m.Name, m.Lag)
		}
		roles[m.Role]++
		timelines[m.Timeline]++
	}
	if len(c.Members) != 3 || roles["leader"] != 1 || roles["sync_standby"] == 0 || len(timelines) != 1 {
		return fmt.Errorf("not whole: %+v", c.Members)
	}
	return nil
}
