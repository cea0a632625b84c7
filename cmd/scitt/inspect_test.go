package main

import (
	"strings"
	"testing"

	"github.com/scittd/scittd/receipts"
)

func TestAConsistencyReceiptIsNotShownAsThatOfALeaf(t *testing.T) {
	var shown strings.Builder
	inspectedReceipt(&receipts.Receipt{
		Consistency: []receipts.Consistency{{From: 3, To: 7, Path: make([][]byte, 4)}},
	}).text(&shown, "")
	if !strings.Contains(shown.String(), "growth from tree 3 to tree 7, 4 hashes") || strings.Contains(shown.String(), "leaf") {
		t.Errorf("shown as\n%s", shown.String())
	}
}
