package testenv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// nginxConfig lets nginx run as anybody, with everything it writes in one folder.
const nginxConfig = `daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path %[1]s/body;
    proxy_temp_path %[1]s/proxy;
    fastcgi_temp_path %[1]s/fastcgi;
    uwsgi_temp_path %[1]s/uwsgi;
    scgi_temp_path %[1]s/scgi;
    include %[1]s/servers.conf;
}
`

// Nginx starts nginx with what servers, a configuration's http section, says,
// and waits until it listens at address. It is gone when the test ends.
func Nginx(t testing.TB, servers, address string) {
	t.Helper()
	w, err := startNginx(servers, address)
	fatal(t, err)
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Errorf("stop the test's nginx: %v", err)
		}
	})
}

func startNginx(servers, address string) (_ *watcher, err error) {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/nginx"); err != nil { // not in everybody's PATH
			return nil, fmt.Errorf("nginx is not installed: %s", installHint)
		}
	}
	dir, err := folder("scittd-nginx-")
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "log")
	for name, text := range map[string]string{"nginx.conf": fmt.Sprintf(nginxConfig, dir), "servers.conf": servers} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	log, err := os.Create(logPath)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer log.Close()
	w, err := watch(log, `"$1" -p "$2" -e "$2/log" -c "$2/nginx.conf" & pid=$!; read -r _; kill "$pid"; wait "$pid"; rm -rf "$2"`, bin, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	err = eventually(10*time.Second, func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("nginx does not answer: %w\n%s", err, tail(logPath)), w.close())
	}
	return w, nil
}
