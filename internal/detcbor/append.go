package detcbor

import "encoding/binary"

// AppendHead appends the shortest head of the given kind and argument.
func AppendHead(dst []byte, kind Kind, arg uint64) []byte {
	major := byte(kind) << 5
	switch {
	case arg < 24:
		return append(dst, major|byte(arg))
	case arg < 1<<8:
		return append(dst, major|24, byte(arg))
	case arg < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(arg))
	case arg < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(arg))
	}
	return binary.BigEndian.AppendUint64(append(dst, major|27), arg)
}

// AppendBytes appends b as a byte string with the shortest head.
func AppendBytes(dst, b []byte) []byte {
	return append(AppendHead(dst, KindBytes, uint64(len(b))), b...)
}
