package fetch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

const defaultPort = "443"

// hostSet reads a list of host[:port]; nil when it is empty.
func hostSet(list []string) (map[string]bool, error) {
	var set map[string]bool
	for _, h := range list {
		host, err := hostPort(h)
		if err != nil {
			return nil, fmt.Errorf("%q is no host[:port]: %w", h, err)
		}
		if set == nil {
			set = map[string]bool{}
		}
		set[host] = true
	}
	return set, nil
}

// SPEC RFC 1123 §2.1, RFC 1035 §2.3.4: labels of letters, digits and hyphens.
// Names in other scripts are written in their ASCII form (RFC 5891).
var (
	hostName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// A last label like that is for an IPv4 address in one of the forms that
	// some resolvers take: 127.1, 0x7f.0.0.1, 017700000001.
	numeric = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

// hostPort normalises host[:port] to what net/http dials: lower case, with a
// port. The host is a name, or an address in its usual form.
func hostPort(s string) (string, error) {
	host, port := strings.ToLower(s), defaultPort
	switch bracketed := strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]"); {
	case bracketed:
		host = host[1 : len(host)-1]
	case strings.Contains(host, ":"):
		var err error
		if host, port, err = net.SplitHostPort(host); err != nil {
			return "", errors.New("its port is none")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return "", errors.New("its port is none")
		}
	}
	switch a, err := netip.ParseAddr(host); {
	case err == nil && a.Zone() != "":
		return "", errors.New("an address of a server has no zone")
	case err == nil && a.String() != host:
		return "", fmt.Errorf("the address is written %s", a)
	case err == nil:
	case len(host) > 253 || !hostName.MatchString(host) || numeric.MatchString(host):
		return "", errors.New("it is neither a name nor an address")
	}
	return net.JoinHostPort(host, port), nil
}

// publicHost says whether host:port can be meant without being configured: an
// address, or a name with a dot, for others mean something on this network only.
func publicHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	return err == nil && strings.ContainsAny(host, ".:")
}

func prefixes(list ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, s := range list {
		all[i] = netip.MustParsePrefix(s)
	}
	return all
}

// Blocks that no public server has an address in: the IANA special-purpose
// address registries (RFC 6890). Of IPv6, only 2000::/3 is public at all.
var (
	global  = netip.MustParsePrefix("2000::/3")
	special = prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
		"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "3fff::/20",
	)
	// IPv4 inside IPv6: mapped, compatible, NAT64, 6to4, Teredo.
	inside = prefixes("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
	// Blocks and addresses that no host on any network is asked at: this host,
	// link-local, multicast, and what clouds serve their machines' secrets at.
	never = prefixes(
		"0.0.0.0/8", "::/128", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "fec0::/10", "ff00::/8",
		"100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128",
	)
)

func in(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// refused says why a must not be dialled; "" when it may be. Private is for hosts
// that are configured to have such addresses.
func refused(a netip.Addr, private bool) string {
	switch {
	case !a.IsValid(), a.Zone() != "", in(a, never):
		return "which is no server's address"
	case a == netip.IPv6Loopback() && private:
		return ""
	case a == netip.IPv6Loopback():
		return "which is not public"
	case in(a, inside) || isatap(a):
		return "which holds an IPv4 address"
	case private:
		return ""
	case in(a, special), a.Is6() && !global.Contains(a):
		return "which is not public"
	}
	return ""
}

// isatap: RFC 5214 §6.1, an interface identifier with an IPv4 address.
func isatap(a netip.Addr) bool {
	b := a.As16()
	return a.Is6() && b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}
