package cfssl

import "testing"

// Each of these settings hands the decision to the request or to the network.
func TestPolicyLeavesNothingToTheRequest(t *testing.T) {
	s := policy()
	for name, p := range s.Profiles {
		if p.CSRWhitelist == nil || *p.CSRWhitelist != *keyOnly() {
			t.Errorf("profile %q lets the request through: %+v", name, p.CSRWhitelist)
		}
		if p.CopyExtensions || len(p.AllowedExtensions) > 0 || p.ClientProvidesSerialNumbers || len(p.CTLogServers) > 0 || p.RemoteName != "" {
			t.Errorf("profile %q: copies extensions %t, allows %v, serials %t", name, p.CopyExtensions, p.AllowedExtensions, p.ClientProvidesSerialNumbers)
		}
	}
	if s.Default.CSRWhitelist == nil || s.Default.CAConstraint.IsCA {
		t.Error("the default profile is not the least there is")
	}
}
