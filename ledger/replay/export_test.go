package replay

// ReadDecisions reads a page, and says how many decisions and how many bytes of
// collateral it has.
func ReadDecisions(page []byte) (n, size int, err error) {
	var d decisions
	for item, err := range itemsOf(page) {
		if err != nil {
			return n, d.size, err
		}
		_, whole, err := d.read(item)
		if err != nil {
			return n, d.size, err
		}
		if whole {
			n++
		}
	}
	return n, d.size, nil
}
