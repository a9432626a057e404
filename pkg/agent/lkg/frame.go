package lkg

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"
)

// magic opens each frame, so that a reader finds the next one behind damage.
var magic = [4]byte{'M', 'K', 'j', '1'}

// headerSize is magic, type, length and checksum.
const headerSize = 4 + 1 + 4 + 4

// maxPayload bounds one frame; anything longer is damage.
const maxPayload = 2 << 20

// recordType says what a frame's payload is.
type recordType byte

const (
	recordHeader  recordType = 'H'
	recordContent recordType = 'C'
	recordState   recordType = 'S'
	recordHighest recordType = 'P'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame adds one record to buf.
func appendFrame(buf []byte, t recordType, m proto.Message) ([]byte, error) {
	start := len(buf)
	buf = append(buf, magic[:]...)
	buf = append(buf, byte(t), 0, 0, 0, 0, 0, 0, 0, 0)
	buf, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(buf, m)
	if err != nil {
		return nil, fmt.Errorf("encode record %c: %w", t, err)
	}
	payload := buf[start+headerSize:]
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("encode record %c: %d bytes are more than %d", t, len(payload), maxPayload)
	}
	binary.BigEndian.PutUint32(buf[start+5:], uint32(len(payload)))
	binary.BigEndian.PutUint32(buf[start+9:], checksum(buf[start+4:start+9], payload))
	return buf, nil
}

func checksum(typeAndLength, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(typeAndLength, castagnoli), castagnoli, payload)
}

// scanner reads frames one after the other, and goes on behind damage.
type scanner struct {
	r      *bufio.Reader
	offset int64
}

// newScanner reads a file of about size bytes.
func newScanner(r io.Reader, size int64) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, int(min(max(size, 64), maxPayload)+headerSize))}
}

// next gives the next intact record. skipped is the number of bytes before it
// that are none; at io.EOF, those at the end. The payload is valid until the
// next call.
func (s *scanner) next() (t recordType, payload []byte, skipped int64, err error) {
	for {
		head, err := s.r.Peek(headerSize)
		if len(head) < headerSize {
			rest, discardErr := s.r.Discard(len(head))
			s.offset += int64(rest)
			skipped += int64(rest)
			if err == nil || errors.Is(err, io.EOF) {
				err = errors.Join(io.EOF, discardErr)
			}
			return 0, nil, skipped, err
		}
		if t, payload, ok := s.frame(head); ok {
			return t, payload, skipped, nil
		}
		n, err := s.toNextMagic()
		skipped += n
		if err != nil {
			return 0, nil, skipped, err
		}
	}
}

// frame takes the frame at the present place if it is intact.
func (s *scanner) frame(head []byte) (recordType, []byte, bool) {
	if [4]byte(head[:4]) != magic {
		return 0, nil, false
	}
	length := binary.BigEndian.Uint32(head[5:])
	if length > maxPayload {
		return 0, nil, false
	}
	total := headerSize + int(length)
	all, err := s.r.Peek(total)
	if err != nil || checksum(all[4:9], all[headerSize:]) != binary.BigEndian.Uint32(all[9:]) {
		return 0, nil, false
	}
	payload := all[headerSize:]
	// Discard only moves the reader's position: all stays as it is until the next
	// read.
	if _, err := s.r.Discard(total); err != nil {
		return 0, nil, false
	}
	s.offset += int64(total)
	return recordType(all[4]), payload, true
}

// toNextMagic moves at least one byte ahead, to where a frame may begin.
func (s *scanner) toNextMagic() (moved int64, err error) {
	skip := 1
	for {
		n, err := s.r.Discard(skip)
		s.offset += int64(n)
		moved += int64(n)
		if err != nil {
			return moved, err
		}
		window, err := s.r.Peek(max(s.r.Buffered(), len(magic)))
		if i := bytes.Index(window, magic[:]); i >= 0 {
			n, err := s.r.Discard(i)
			s.offset += int64(n)
			return moved + int64(n), err
		}
		if err != nil {
			n, discardErr := s.r.Discard(len(window))
			s.offset += int64(n)
			return moved + int64(n), errors.Join(err, discardErr)
		}
		skip = len(window) - len(magic) + 1
	}
}
