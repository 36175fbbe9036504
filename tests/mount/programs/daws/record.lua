-- Makes an Ardour session, and records two seconds of a sine on two tracks.
-- usage: ardour7-lua record.lua FOLDER NAME
local folder, name = arg[1], arg[2]

local function wait(seconds)
  ARDOUR.LuaAPI.usleep(seconds * 1000000)
end

local backend = AudioEngine:set_backend("None (Dummy)", "", "")
assert(backend:set_device_name("Sine Wave") == 0, "the dummy device plays no sine")
local session = assert(create_session(folder, name, 48000), "no session")

local is_input = ARDOUR.PortFlags.IsOutput | ARDOUR.PortFlags.IsPhysical
local audio = ARDOUR.DataType("audio")
local _, found = session:engine():get_backend_ports("", audio, is_input, C.StringVector())
local inputs = {}
for port in found[4]:iter() do
  inputs[#inputs + 1] = port
end

local tracks = session:new_audio_track(
  1, 2, nil, 2, "take", ARDOUR.PresentationInfo.max_order, ARDOUR.TrackMode.Normal, true)
for track in tracks:iter() do
  assert(track:input():nth(0):connect(table.remove(inputs, 1)) == 0, "no input")
  track:rec_enable_control():set_value(1, PBD.GroupControlDisposition.NoGroup)
end

local by_hand = ARDOUR.TransportRequestSource.TRS_UI
session:maybe_enable_record(false)
session:request_roll(by_hand)
wait(2)
session:request_stop(false, false, by_hand)
-- The butler writes what is left, and the files are closed.
wait(1.5)
session:save_state("", false, false, false, false, false)
close_session()
quit()
