package realtime

import (
	"bytes"
	"crypto/md5" //nolint:gosec // it spreads names, and SQL has it too
	"strconv"
)

// PlaceOf says which of so many logs has a channel: the one whose place, hashed together with the channel's name,
// is the greatest. So every replica says the same without asking anybody; and where a log is added at the end, the
// channels that move are those which it wins, one in `logs`, and none moves between the others. forgewire.place_of
// says the same in SQL.
func PlaceOf(channel string, logs int) (place int) {
	if logs <= 1 {
		return 0
	}
	var most [md5.Size]byte
	var room [4 + MaxChannelLength]byte
	for p := range logs {
		b := append(append(strconv.AppendInt(room[:0], int64(p), 10), ':'), channel...)
		if sum := md5.Sum(b); p == 0 || bytes.Compare(sum[:], most[:]) > 0 { //nolint:gosec // as above
			place, most = p, sum
		}
	}
	return place
}
