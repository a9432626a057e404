package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt trusts its file: it follows page numbers and lengths through a memory
// map, and a damaged one ends in a panic, a fault or a wrong answer, some of them
// in goroutines of its own where nothing can catch them. It also falls back to
// the meta page before the newest one when that does not verify, which would
// silently take back the last acknowledged write. So the whole structure is
// checked here, with ordinary reads, before bbolt may follow it.
//
// The format (native byte order, as bbolt has it):
//
//	page:    id u64, flags u16, count u16, overflow u32, then elements
//	branch:  count × {pos u32, ksize u32, page u64}, then keys
//	leaf:    count × {flags u32, pos u32, ksize u32, vsize u32}, then keys, values
//	         flags 1: the value is a bucket {root u64, sequence u64[, inline page]}
//	meta:    magic u32, version u32, page size u32, flags u32, root u64,
//	         sequence u64, freelist u64, high-water mark u64, txid u64, FNV-64a u64
//
// where pos counts from the element itself.
const (
	pageHeader   = 16
	elementSize  = 16
	bucketHeader = 16
	metaSize     = 64
	maxDepth     = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	leafBucket   = 0x01

	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	noFreelist   = 0xffffffffffffffff
	minPageSize  = 512
	maxPageSize  = 64 << 10
	longFreelist = 0xFFFF
)

var order = binary.NativeEndian

type meta struct {
	pageSize uint64
	root     uint64
	freelist uint64
	pages    uint64 // high-water mark
	txid     uint64
}

// checker walks one file. It is for one goroutine and one use.
type checker struct {
	file io.ReaderAt
	meta meta
	// seen marks the pages that something refers to.
	seen []bool
	buf  []byte
}

// checkFile verifies the structure of a bbolt file of size bytes. The file must
// not change meanwhile.
func checkFile(file io.ReaderAt, size int64) error {
	m, err := newestMeta(file, size)
	if err != nil {
		return err
	}
	if m.pages < 4 || m.pages > uint64(size)/m.pageSize {
		return fmt.Errorf("the file should have %d pages of %d bytes, it has %d bytes", m.pages, m.pageSize, size)
	}
	c := &checker{file: file, meta: m, seen: make([]bool, m.pages)}
	c.seen[0], c.seen[1] = true, true
	if err := c.tree(m.root, 0, nil, nil); err != nil {
		return err
	}
	if err := c.freelist(); err != nil {
		return err
	}
	for id, seen := range c.seen {
		if !seen {
			return fmt.Errorf("page %d is neither used nor free", id)
		}
	}
	return nil
}

// newestMeta wants both meta pages intact. A crash leaves them so: a meta page's
// content lies within one sector, which a device writes whole or not at all.
func newestMeta(file io.ReaderAt, size int64) (meta, error) {
	first, err := readMeta(file, 0)
	if err != nil {
		return meta{}, fmt.Errorf("page 0: %w", err)
	}
	second, err := readMeta(file, int64(first.pageSize))
	if err != nil {
		return meta{}, fmt.Errorf("page 1: %w", err)
	}
	if first.pageSize != second.pageSize || first.txid%2 != 0 || second.txid%2 != 1 ||
		max(first.txid, second.txid)-min(first.txid, second.txid) != 1 {
		return meta{}, fmt.Errorf("pages 0 and 1 contradict each other")
	}
	if first.txid > second.txid {
		return first, nil
	}
	return second, nil
}

func readMeta(file io.ReaderAt, offset int64) (meta, error) {
	b := make([]byte, pageHeader+metaSize+8)
	if _, err := file.ReadAt(b, offset); err != nil {
		return meta{}, fmt.Errorf("read: %w", err)
	}
	b = b[pageHeader:]
	if m, v := order.Uint32(b), order.Uint32(b[4:]); m != boltMagic || v != boltVersion {
		return meta{}, fmt.Errorf("it is not a page of a store file (magic %08x, version %d)", m, v)
	}
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	if h.Sum64() != order.Uint64(b[metaSize-8:]) {
		return meta{}, fmt.Errorf("its checksum is wrong")
	}
	m := meta{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]), pages: order.Uint64(b[40:]), txid: order.Uint64(b[48:]),
	}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, fmt.Errorf("it names a page size of %d", m.pageSize)
	}
	return m, nil
}

// page reads a page with what overflows from it, and marks it. The result is
// valid until the next call.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.meta.pages {
		return nil, fmt.Errorf("page %d lies outside the file", id)
	}
	var head [pageHeader]byte
	offset := int64(id * c.meta.pageSize)
	if _, err := c.file.ReadAt(head[:], offset); err != nil {
		return nil, fmt.Errorf("page %d: read: %w", id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if got := order.Uint64(head[:]); got != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, got)
	}
	if id+overflow >= c.meta.pages {
		return nil, fmt.Errorf("page %d with %d more lies outside the file", id, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	n := int((overflow + 1) * c.meta.pageSize)
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	b := c.buf[:n]
	if _, err := c.file.ReadAt(b, offset); err != nil {
		return nil, fmt.Errorf("page %d: read: %w", id, err)
	}
	return b, nil
}

// tree checks the tree below a page; its keys lie in [low, high), nil being open.
func (c *checker) tree(id uint64, depth int, low, high []byte) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d lies more than %d levels deep", id, maxDepth)
	}
	b, err := c.page(id)
	if err != nil {
		return err
	}
	var below []branch
	switch flags := order.Uint16(b[8:]); flags {
	case flagBranch:
		if below, err = branches(b, low, high); err == nil && len(below) == 0 {
			err = fmt.Errorf("it is a branch without a child")
		}
	case flagLeaf:
		below, err = leaves(b, low, high)
	default:
		err = fmt.Errorf("it has the flags %#x", flags)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	for _, n := range below {
		if err := c.tree(n.page, depth+1, n.low, n.high); err != nil {
			return err
		}
	}
	return nil
}

// branch is a page to descend to, with the bounds of its keys.
type branch struct {
	page      uint64
	low, high []byte
}

// span gives the bytes of an element's key and value, bounds checked.
func span(b []byte, element int, pos, ksize, vsize uint32, count int) (key, value []byte, err error) {
	start := uint64(element) + uint64(pos)
	end := start + uint64(ksize) + uint64(vsize)
	if start < uint64(pageHeader+count*elementSize) || end > uint64(len(b)) {
		return nil, nil, fmt.Errorf("an element lies outside the page")
	}
	k := start + uint64(ksize)
	return b[start:k], b[k:end], nil
}

// ordered checks that key comes after prev (nil at the first) within bounds.
func ordered(prev, key, low, high []byte) error {
	if (prev != nil && bytes.Compare(prev, key) >= 0) || (low != nil && bytes.Compare(key, low) < 0) ||
		(high != nil && bytes.Compare(key, high) >= 0) {
		return fmt.Errorf("its keys are out of order")
	}
	return nil
}

func branches(b []byte, low, high []byte) ([]branch, error) {
	count := int(order.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) {
		return nil, fmt.Errorf("it has too many elements")
	}
	var out []branch
	var prev []byte
	for i := range count {
		at := pageHeader + i*elementSize
		key, _, err := span(b, at, order.Uint32(b[at:]), order.Uint32(b[at+4:]), 0, count)
		if err != nil {
			return nil, err
		}
		if err := ordered(prev, key, low, high); err != nil {
			return nil, err
		}
		prev = key
		key = bytes.Clone(key) // the page's buffer is used again below
		if i > 0 {
			out[i-1].high = key
		}
		out = append(out, branch{page: order.Uint64(b[at+8:]), low: key, high: high})
	}
	return out, nil
}

// leaves checks a leaf page and gives the roots of the buckets in it.
func leaves(b []byte, low, high []byte) ([]branch, error) {
	count := int(order.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) {
		return nil, fmt.Errorf("it has too many elements")
	}
	var out []branch
	var prev []byte
	for i := range count {
		at := pageHeader + i*elementSize
		key, value, err := span(b, at, order.Uint32(b[at+4:]), order.Uint32(b[at+8:]), order.Uint32(b[at+12:]), count)
		if err != nil {
			return nil, err
		}
		if err := ordered(prev, key, low, high); err != nil {
			return nil, err
		}
		prev = key
		switch flags := order.Uint32(b[at:]); flags {
		case 0:
		case leafBucket:
			root, err := bucketRoot(value)
			if err != nil {
				return nil, err
			}
			if root != 0 {
				out = append(out, branch{page: root})
			}
		default:
			return nil, fmt.Errorf("an element has the flags %#x", flags)
		}
	}
	return out, nil
}

// bucketRoot gives the page of a bucket, 0 if it lies within its value.
func bucketRoot(value []byte) (uint64, error) {
	if len(value) < bucketHeader {
		return 0, fmt.Errorf("a bucket is too short")
	}
	if root := order.Uint64(value); root != 0 {
		return root, nil
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != flagLeaf || order.Uint32(inline[12:]) != 0 {
		return 0, fmt.Errorf("a bucket has no page")
	}
	nested, err := leaves(inline, nil, nil)
	if err != nil {
		return 0, err
	}
	if len(nested) > 0 {
		return 0, fmt.Errorf("a bucket without a page has buckets in it")
	}
	return 0, nil
}

func (c *checker) freelist() error {
	if c.meta.freelist == noFreelist {
		return fmt.Errorf("it has no list of free pages")
	}
	b, err := c.page(c.meta.freelist)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if flags := order.Uint16(b[8:]); flags != flagFreelist {
		return fmt.Errorf("list of free pages: page %d has the flags %#x", c.meta.freelist, flags)
	}
	count, ids := uint64(order.Uint16(b[10:])), b[pageHeader:]
	if count == longFreelist {
		count, ids = order.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("list of free pages: it names %d pages, more than fit", count)
	}
	for i := range count {
		id := order.Uint64(ids[i*8:])
		if id < 2 || id >= c.meta.pages || c.seen[id] {
			return fmt.Errorf("page %d is both used and free, or lies outside the file", id)
		}
		c.seen[id] = true
	}
	return nil
}
