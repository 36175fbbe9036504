-- Opens an Ardour session, says how many regions it has, and saves it, and a snapshot of it.
-- usage: ardour7-lua reopen.lua FOLDER NAME
local folder, name = arg[1], arg[2]

AudioEngine:set_backend("None (Dummy)", "", "")
local session = assert(load_session(folder, name), "no session")
local regions = 0
for route in session:get_tracks():iter() do
  for region in route:to_track():playlist():region_list():iter() do
    regions = regions + 1
    assert(not region:to_audioregion():isnil(), "a region without sound")
  end
end
print("regions: " .. regions)
session:save_state("", false, false, false, false, false)
session:save_state("snapshot", false, false, false, false, false)
close_session()
quit()
